//! `/api/v1/openapi.json`: made from the same types that the handlers read and write.

use actix_web::HttpResponse;
use serde_json::{Value, json};
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder, PathsBuilder, Ref, RefOr, Required,
    ResponseBuilder, Schema,
};
use utoipa::{PartialSchema, ToSchema};

use super::collection::{Change, Collection, Create};
use super::{
    grants, groups, nodes, policies, policy_file, problem, reports, resources, service_accounts, sites,
    tokens,
};

/// `GET /openapi.json`
pub async fn serve() -> HttpResponse {
    HttpResponse::Ok().json(document())
}

/// What the document is built from.
struct Writer {
    paths: PathsBuilder,
    schemas: Vec<(String, RefOr<Schema>)>,
}

/// The type of a body or an answer.
type Shape = RefOr<Schema>;

impl Writer {
    /// A type among the components, by reference.
    fn shape<T: ToSchema>(&mut self) -> Shape {
        let name = T::name().into_owned();
        if !self.schemas.iter().any(|(known, _)| *known == name) {
            self.schemas.push((name.clone(), T::schema()));
            let mut inner = Vec::new();
            T::schemas(&mut inner);
            for (name, schema) in inner {
                if !self.schemas.iter().any(|(known, _)| *known == name) {
                    self.schemas.push((name, schema));
                }
            }
        }
        RefOr::Ref(Ref::from_schema_name(name))
    }

    fn operation(
        &mut self,
        method: HttpMethod,
        path: &str,
        summary: String,
        body: Option<Shape>,
        status: &str,
        answer: Option<Shape>,
    ) {
        let mut operation = OperationBuilder::new().summary(Some(summary));
        for part in path.split('/').filter(|part| part.starts_with('{')) {
            let name = part.trim_matches(['{', '}']);
            let parameter = ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .description(Some("id or name"))
                .schema(Some(String::schema()));
            operation = operation.parameter(parameter.build());
        }
        if let Some(body) = body {
            let content = ContentBuilder::new().schema(Some(body)).build();
            let body = RequestBodyBuilder::new().content("application/json", content);
            operation = operation.request_body(Some(body.required(Some(Required::True)).build()));
        }
        let mut done = ResponseBuilder::new().description("done");
        if let Some(answer) = answer {
            done = done.content("application/json", ContentBuilder::new().schema(Some(answer)).build());
        }
        let problem = self.shape::<problem::Problem>();
        let problem = ContentBuilder::new().schema(Some(problem)).build();
        let refused = ResponseBuilder::new()
            .description("refused: `detail` says why and what to do")
            .content("application/problem+json", problem);
        let operation = operation.response(status, done.build()).response("default", refused.build()).build();
        let paths = std::mem::take(&mut self.paths);
        self.paths = paths.path(format!("/api/v1{path}"), PathItem::new(method, operation));
    }

    fn read<C: Collection>(&mut self) {
        let (path, noun) = (format!("/{}", C::PATH), C::NOUN);
        let view = self.shape::<C::View>();
        let list = list_of(&view);
        self.operation(
            HttpMethod::Get,
            &path,
            format!("Lists what kind {noun} there is"),
            None,
            "200",
            Some(list),
        );
        let one = format!("{path}/{{ref}}");
        self.operation(HttpMethod::Get, &one, format!("Shows one {noun}"), None, "200", Some(view));
        self.operation(HttpMethod::Delete, &one, format!("Deletes one {noun}"), None, "204", None);
    }

    fn change<C: Change>(&mut self) {
        let (body, view) = (self.shape::<C::Body>(), self.shape::<C::View>());
        let summary = format!("Changes one {}; what is left out stays", C::NOUN);
        self.operation(
            HttpMethod::Patch,
            &format!("/{}/{{ref}}", C::PATH),
            summary,
            Some(body),
            "200",
            Some(view),
        );
    }

    fn create<C: Create>(&mut self) {
        let (body, created) = (self.shape::<C::Body>(), self.shape::<C::Created>());
        let summary = format!("Makes a {}", C::NOUN);
        self.operation(HttpMethod::Post, &format!("/{}", C::PATH), summary, Some(body), "201", Some(created));
    }

    fn editable<C: Create + Change>(&mut self) {
        self.read::<C>();
        self.create::<C>();
        self.change::<C>();
    }

    fn joined<C: Change>(&mut self) {
        self.read::<C>();
        self.change::<C>();
    }
}

/// A part of a collection.
fn list_of(item: &Shape) -> Shape {
    use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder};
    let items = ArrayBuilder::new().items(item.clone());
    let object = ObjectBuilder::new()
        .property("items", items)
        .required("items")
        .property("next", <Option<String>>::schema());
    RefOr::T(Schema::Object(object.build()))
}

fn written() -> OpenApi {
    let mut writer = Writer { paths: PathsBuilder::new(), schemas: Vec::new() };
    writer.editable::<sites::Sites>();
    writer.joined::<nodes::Gateways>();
    writer.joined::<nodes::Relays>();
    writer.joined::<nodes::Devices>();
    writer.editable::<tokens::GatewayTokens>();
    writer.editable::<tokens::RelayTokens>();
    writer.editable::<resources::Resources>();
    writer.editable::<policies::Policies>();
    writer.editable::<groups::Groups>();
    writer.editable::<service_accounts::ServiceAccounts>();
    writer.read::<grants::Grants>();

    let (reference, group) = (writer.shape::<super::collection::Ref>(), writer.shape::<groups::GroupView>());
    let member = writer.shape::<groups::MemberCreate>();
    let members = "/groups/{ref}/members";
    writer.operation(
        HttpMethod::Get,
        members,
        "Lists the members".into(),
        None,
        "200",
        Some(list_of(&reference)),
    );
    writer.operation(HttpMethod::Post, members, "Adds a member".into(), Some(member), "201", Some(group));
    let member = "/groups/{ref}/members/{principal}";
    writer.operation(HttpMethod::Delete, member, "Removes a member".into(), None, "204", None);

    let (token, created) = (writer.shape::<tokens::TokenView>(), writer.shape::<tokens::TokenCreated>());
    let body = writer.shape::<tokens::ServiceTokenCreate>();
    let of_account = "/service-accounts/{ref}/tokens";
    writer.operation(
        HttpMethod::Get,
        of_account,
        "Lists its tokens".into(),
        None,
        "200",
        Some(list_of(&token)),
    );
    writer.operation(HttpMethod::Post, of_account, "Makes a token".into(), Some(body), "201", Some(created));
    let token = "/service-accounts/{ref}/tokens/{token}";
    writer.operation(HttpMethod::Delete, token, "Deletes a token".into(), None, "204", None);

    let (asked, decided) =
        (writer.shape::<reports::DecisionAsked>(), writer.shape::<reports::DecisionView>());
    let summary = "Says what would be decided, and why".to_owned();
    writer.operation(HttpMethod::Post, "/decisions", summary, Some(asked), "200", Some(decided));
    let (given, planned) =
        (writer.shape::<policy_file::PolicyFileGiven>(), writer.shape::<policy_file::PlanView>());
    let exported = writer.shape::<policy_file::PolicyFileView>();
    let summary = "Writes the policies as a file".to_owned();
    writer.operation(HttpMethod::Get, "/policy-file", summary, None, "200", Some(exported));
    let summary = "Says what a policy file would change, and runs its tests".to_owned();
    let path = "/policy-file/plan";
    writer.operation(HttpMethod::Post, path, summary, Some(given.clone()), "200", Some(planned.clone()));
    let summary = "Runs a policy file's tests and stores its policies".to_owned();
    writer.operation(HttpMethod::Post, "/policy-file/apply", summary, Some(given), "200", Some(planned));
    let audit = writer.shape::<reports::AuditPart>();
    writer.operation(HttpMethod::Get, "/audit", "Reads the audit log".into(), None, "200", Some(audit));
    let account = writer.shape::<reports::AccountView>();
    writer.operation(
        HttpMethod::Get,
        "/account",
        "Shows the token's account".into(),
        None,
        "200",
        Some(account),
    );

    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let mut components = ComponentsBuilder::new().security_scheme("admin", SecurityScheme::Http(bearer));
    for (name, schema) in writer.schemas {
        components = components.schema(name, schema);
    }
    OpenApiBuilder::new()
        .info(InfoBuilder::new().title("Postern control API").version(env!("CARGO_PKG_VERSION")).build())
        .paths(writer.paths.build())
        .components(Some(components.build()))
        .security(Some([SecurityRequirement::new("admin", Vec::<String>::new())]))
        .build()
}

/// The document.
pub fn document() -> Value {
    serde_json::to_value(written()).unwrap_or_else(|_| json!({}))
}

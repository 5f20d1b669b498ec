//! `policy-measure ours|changes|changes-tenfold|cedar|cedar-sliced|agree [SECONDS]`: one JSON object on standard output.

#[cfg(feature = "cedar")]
mod cedar;
mod measure;
mod ours;
mod world;

use anyhow::{Result, bail};
use world::World;

const SEED: u64 = 20_261_124;
/// Distinct questions in a pass.
const QUESTIONS: usize = 1_000_000;
/// Questions on which both have to agree, when Cedar is given the policies of the resource alone, and when it is given all.
#[cfg(feature = "cedar")]
const AGREE_SLICED: usize = 20_000;
#[cfg(feature = "cedar")]
const AGREE_WHOLE: usize = 1_000;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let secs: u64 = arguments.next().map_or(Ok(5), |secs| secs.parse())?;
    let answer = match what.as_str() {
        "ours" => {
            let world = World::draw(SEED, 1);
            ours::decisions(&world, &world.questions(SEED, QUESTIONS), secs)
        }
        "changes" => ours::changes(&World::draw(SEED, 1)),
        "changes-tenfold" => ours::changes(&World::draw(SEED, 10)),
        #[cfg(feature = "cedar")]
        "cedar" | "cedar-sliced" => {
            let world = World::draw(SEED, 1);
            cedar::decisions(&world, &world.questions(SEED, QUESTIONS), secs, what == "cedar-sliced")?
        }
        #[cfg(feature = "cedar")]
        "agree" => {
            let world = World::draw(SEED, 1);
            let questions = world.questions(SEED, AGREE_SLICED);
            let own = ours::verdicts(&world, &questions);
            // With all policies Cedar takes long: it is asked about some of them.
            let whole = cedar::verdicts(&world, &questions[..AGREE_WHOLE], false)?;
            let sliced = cedar::verdicts(&world, &questions, true)?;
            let differ =
                |theirs: &[bool]| own.iter().zip(theirs).filter(|(own, theirs)| own != theirs).count();
            let differ = differ(&whole) + differ(&sliced);
            let allowed = own.iter().filter(|allowed| **allowed).count();
            serde_json::json!({ "questions": questions.len(), "allowed": allowed, "differ": differ })
        }
        _ => bail!("write ours, changes, changes-tenfold, cedar, cedar-sliced or agree"),
    };
    println!("{answer}");
    Ok(())
}

//! `policy-measure ours|changes|changes-tenfold|cedar|agree [SECONDS]`: one JSON object on standard output.

#[cfg(feature = "cedar")]
mod cedar;
mod ours;
mod world;

use anyhow::{Result, bail};
use world::World;

const SEED: u64 = 20_261_124;
/// Distinct questions in a pass.
const QUESTIONS: usize = 1_000_000;

/// The value below which this part of the ordered values lies.
fn percentile(ordered: &[u64], part: f64) -> f64 {
    let place = (ordered.len() as f64 * part) as usize;
    ordered.get(place.min(ordered.len().saturating_sub(1))).map_or(0.0, |value| *value as f64)
}

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
        "cedar" => {
            let world = World::draw(SEED, 1);
            cedar::decisions(&world, &world.questions(SEED, 20_000), secs)?
        }
        #[cfg(feature = "cedar")]
        "agree" => {
            let world = World::draw(SEED, 1);
            let questions = world.questions(SEED, 500);
            let (own, theirs) = (ours::verdicts(&world, &questions), cedar::verdicts(&world, &questions)?);
            let differ = own.iter().zip(&theirs).filter(|(own, theirs)| own != theirs).count();
            let allowed = own.iter().filter(|allowed| **allowed).count();
            serde_json::json!({ "questions": questions.len(), "allowed": allowed, "differ": differ })
        }
        _ => bail!("write ours, changes, changes-tenfold, cedar or agree"),
    };
    println!("{answer}");
    Ok(())
}

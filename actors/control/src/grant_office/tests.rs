mod acting;
mod ending;
mod granting;
mod world;

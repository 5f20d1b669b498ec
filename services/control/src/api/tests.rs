mod nodes;
mod openapi;
mod policy_file;
mod quality;
mod rest;
mod stage;
mod walls;

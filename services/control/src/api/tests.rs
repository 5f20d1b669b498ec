mod nodes;
mod openapi;
mod policy_file;
mod rest;
mod stage;

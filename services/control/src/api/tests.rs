mod nodes;
mod openapi;
mod rest;
mod stage;

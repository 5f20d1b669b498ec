mod nodes;
mod openapi;
mod quality;
mod rest;
mod stage;
mod walls;

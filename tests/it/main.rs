//! End-to-end tests: the built binary, real git, real sandboxes, models behind a local fake of their wire formats.

mod bad_input;
mod channels;
mod concurrent;
mod containers;
mod daemon;
mod demo;
mod desktop;
mod fake;
mod gc;
mod grants;
mod http;
mod inbox;
mod kills;
mod language;
mod layers;
mod mail;
mod main_job;
mod signals;
mod smtp_fake;
mod telegram;
mod telegram_fake;
mod telegram_html;
mod telegram_notices;
mod web;
mod working_copy;
mod world;

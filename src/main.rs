//! Arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Whatever descriptors our own starter left open are nobody else's business: no child inherits them.
    close_fds::set_fds_cloexec(3, &[]);
    // Started for every command of a run, and therefore before everything that takes its time.
    match std::env::args_os().nth(1) {
        Some(word) if word == devo::sandboxes::SUPERVISOR_WORD => return devo::sandboxes::supervise(),
        Some(word) if word == devo::sandboxes::INNER_WORD => return devo::sandboxes::enter(),
        _ => {}
    }
    if std::env::args_os().nth(1).is_some_and(|word| word == devo::sandboxes::docker::INIT_WORD) {
        return devo::sandboxes::docker::init();
    }
    ExitCode::from(devo::frontends::cli::main(std::env::args_os()))
}

//! `devo help`: a command's help, or a page about something that all commands share.

use clap::Args as _;

use super::{COMMANDS, Cx, Entry, Group, command, parsed};
use crate::error::{Error, Exit};

pub const ENTRY: Entry = Entry {
    name: "help",
    group: Group::Upkeep,
    about: "Help on a command or a topic",
    examples: "devo help run\n\
               devo help exit-codes",
    augment: Args::augment_args,
    run: |cx, matches| help(cx, &parsed(matches)?),
};

#[derive(Debug, clap::Args)]
struct Args {
    /// A command, or: exit-codes, environment, json
    topic: Option<String>,
}

const TOPICS: &[(&str, &str)] = &[
    (
        "exit-codes",
        "  0  it was done; the run completed\n  \
           1  the run failed, or the machine did\n  \
           2  usage, an invalid file, or a refusal; standard error says what is true now\n  \
           3  the run waits for a person\n  \
           4  the run was aborted, or its plan rejected\n \
          70  a bug of devo: please report it\n\
         130  interrupted; the run goes on with `devo resume RUN`\n",
    ),
    (
        "environment",
        "DEVO_HOME                                   the home, like --home\n\
         ANTHROPIC_API_KEY, ANTHROPIC_BASE_URL       Anthropic\n\
         GEMINI_API_KEY (or GOOGLE_API_KEY),\n\
         GOOGLE_GEMINI_BASE_URL                      Gemini\n\
         OPENAI_API_KEY, OPENAI_BASE_URL             any OpenAI-compatible endpoint; the URL ends in /v1\n\
         NAME_FILE                                   a file that holds NAME, for each key above\n\
         NO_COLOR, CLICOLOR_FORCE                    colours never, always\n\
         VISUAL, EDITOR                              opened for the feedback on a plan\n\
         DEVO_LOG                                    what devo logs of itself, such as devo=debug\n",
    ),
    (
        "json",
        "--json writes JSON to standard output and nothing else; people's text stays on standard error.\n\
         `run`, `resume` and `retry` write a line per event: first {\"event\":\"accepted\",\"task_id\":…}, then\n\
         {\"event\":NAME,\"seq\":N,\"at\":RFC 3339,\"step\":…,…}, last {\"event\":\"result\",\"run\":{…}}.\n\
         `logs` writes a line per line. `status RUN` writes the run's document; `status` a list of them in short.\n\
         An error is {\"error\":{\"code\":…,\"message\":…,\"hint\":…}}.\n",
    ),
];

fn help(cx: &Cx, args: &Args) -> Result<Exit, Error> {
    let mut root = command();
    let Some(topic) = &args.topic else {
        cx.out.write(&root.render_long_help().to_string());
        return Ok(Exit::Completed);
    };
    if let Some((_, text)) = TOPICS.iter().find(|(name, _)| name == topic) {
        cx.out.write(text);
        return Ok(Exit::Completed);
    }
    // Built as a whole, so that the global options are known to the part.
    root.build();
    if let Some(found) = root.find_subcommand_mut(topic) {
        cx.out.write(&found.render_long_help().to_string());
        return Ok(Exit::Completed);
    }
    let words = COMMANDS.iter().map(|entry| entry.name).chain(TOPICS.iter().map(|(name, _)| *name));
    let near = words.map(|word| (strsim::damerau_levenshtein(word, topic), word)).min();
    let error = Error::usage(format!("there is no help on `{}`", topic.chars().take(40).collect::<String>()));
    Err(match near {
        Some((distance, word)) if distance <= 3 => error.hint(format!("devo help {word}")),
        _ => error.hint("devo --help lists the commands; topics are exit-codes, environment and json"),
    })
}

//! What only the bot says, in English and Spanish, side by side so that neither can be forgotten. Texts that other channels say
//! as well are in `frontends::words`.

use crate::frontends::words::table;

table! {
    // The menu.
    menu_task: "Ask for work: [REPO] TEXT", "Pedir un trabajo: [REPO] TEXTO";
    menu_new: "A new task, step by step", "Una tarea nueva, paso a paso";
    menu_plan: "Show or approve a plan: [approve] [RUN]", "Ver o aprobar un plan: [approve] [RUN]";
    menu_status: "How things stand: [RUN]", "Cómo va todo: [RUN]";
    menu_abort: "Stop a run: [RUN]", "Detener una ejecución: [RUN]";
    menu_lang: "Language: en or es", "Idioma: en o es";
    menu_mute: "Let a task ring no more here: [RUN]", "Que una tarea no suene más aquí: [RUN]";
    menu_unmute: "Let it ring again: [RUN]", "Que vuelva a sonar: [RUN]";
    menu_login: "A link that signs you in on the pages, once", "Un enlace para entrar en las páginas, una vez";
    menu_verbose: "How much I tell: quiet, steps or tools", "Cuánto cuento: quiet, steps o tools";
    menu_help: "What I understand", "Lo que entiendo";
    help_more: "Reply to a plan to say what it should do differently; only its button or /plan approve approves it. Reply to a question to answer it. Send a .yaml file: a task, or a pipeline with `REPO TEXT` as its caption.",
        "Responde a un plan para decir qué debe cambiar; solo su botón o /plan approve lo aprueban. Responde a una pregunta para contestarla. Envía un archivo .yaml: una tarea, o un pipeline con `REPO TEXTO` como descripción.";

    // A task.
    which_repo: "Which repository?", "¿Qué repositorio?";
    which_text: "What should be done? Reply to this message.", "¿Qué hay que hacer? Responde a este mensaje.";
    no_repos: "devo.yaml has no repository yet, so there is nothing to work on.", "devo.yaml aún no tiene repositorios: no hay en qué trabajar.";
    accepted: "Accepted", "Aceptada";
    accepted_before: "This task is known already", "Esta tarea ya se conoce";
    refused: "Not accepted", "No se acepta";
    missing_inputs: "The pipeline `{name}` also needs the inputs {inputs}. Send a task file that holds it as `pipeline:` and gives them under `inputs:`.",
        "El pipeline `{name}` necesita además las entradas {inputs}. Envía una tarea que lo contenga en `pipeline:` y las dé en `inputs:`.";
    not_yaml: "I read tasks and pipelines: a file named .yaml or .yml, up to {size} KiB.", "Leo tareas y pipelines: un archivo .yaml o .yml, de hasta {size} KiB.";
    own_steps: "A pipeline of your own runs without anybody's approval; an approver may send one. /task uses those of this home.", "Un pipeline propio se ejecuta sin que nadie lo apruebe; puede enviarlo un aprobador. /task usa los de esta carpeta.";
    no_file: "Telegram did not give me the file", "Telegram no me dio el archivo";
    draft_gone: "That task was sent already, or is too old. Start again with /new.", "Esa tarea ya se envió o es demasiado vieja. Empieza de nuevo con /new.";

    // A plan.
    plan: "Plan", "Plan";
    revision: "revision {n}", "revisión {n}";
    files: "{n} files", "{n} archivos";
    minutes: "{n} min", "{n} min";
    steps: "Steps", "Pasos";
    done_when: "Done when", "Terminado cuando";
    may_change: "Test files that may change", "Pruebas que pueden cambiar";
    questions: "Questions (reply to this message)", "Preguntas (responde a este mensaje)";
    assumptions: "Taken for granted", "Se da por hecho";
    risks: "Risks", "Riesgos";
    left_out: "Left out", "Queda fuera";
    whole_plan: "The whole plan is in the file below.", "El plan completo está en el archivo de abajo.";
    repeat: "(repeated: I do not know whether the first one arrived)", "(repetido: no sé si el primero llegó)";
    feedback: "What should change? Reply to this message. (Revision {n})", "¿Qué debe cambiar? Responde a este mensaje. (Revisión {n})";
    revising: "Revising: {text}", "Corrigiendo: {text}";
    answered: "Answered: {text}", "Respondido: {text}";
    approved_now: "Approved", "Aprobado";
    rejected_now: "Rejected", "Rechazado";
    aborting: "Aborting", "Abortando";
    retrying: "Going on", "Continúa";
    shown_first: "This is the plan that waits; approve it with its button.", "Este es el plan que espera; apruébalo con su botón.";
    newer_plan: "A newer plan came after you wrote that; look at it first.", "Llegó un plan más nuevo después de tu mensaje; míralo primero.";

    // What is true now.
    now_approved: "Revision {n} was approved by {who} ({channel}), {at} UTC", "Revisión {n} aprobada por {who} ({channel}), {at} UTC";
    now_superseded: "Superseded by revision {n}", "Sustituida por la revisión {n}";
    now_revising: "Being revised", "En revisión";
    now_answered: "Answered", "Respondida";
    now_over: "The run is over: {status}", "La ejecución terminó: {status}";
    stale: "That button has expired. /status shows what is true now.", "Ese botón caducó. /status muestra lo que vale ahora.";
    foreign: "That button belongs to another chat.", "Ese botón es de otro chat.";
    not_approver: "You may not decide this; an approver can.", "No puedes decidir esto; un aprobador sí.";

    // A run.
    waits_approval: "waits for approval", "espera aprobación";
    waits_answer: "waits for an answer", "espera una respuesta";
    waits_budget: "waits for more budget", "espera más presupuesto";
    question: "Question", "Pregunta";
    budget: "More budget?", "¿Más presupuesto?";
    reply_to_answer: "Reply to this message to answer.", "Responde a este mensaje para contestar.";
    step_failed: "Step {step} failed", "Falló el paso {step}";
    tests: "Tests: {passed} passed, {failed} failed, {skipped} skipped", "Pruebas: {passed} bien, {failed} mal, {skipped} omitidas";
    tests_unknown: "Tests: the command ended well; no test was recognised", "Pruebas: el comando acabó bien; no se reconoció ninguna";
    changes: "+{plus} −{minus} in {n} files", "+{plus} −{minus} en {n} archivos";
    guard_clean: "The guard found nothing", "El guardián no encontró nada";
    guard_found: "The guard found {n} to look at:", "El guardián encontró {n} por mirar:";
    branch_link: "branch", "rama";
    compare_link: "compare, and create the pull request", "comparar y crear el pull request";
    log: "Log", "Registro";
    diff: "Diff", "Diff";
    no_log: "There is no log yet.", "Aún no hay registro.";
    cut: "[the beginning was left out]", "[se omitió el principio]";
    sure_abort: "Abort {run}? What was pushed stays.", "¿Abortar {run}? Lo enviado se queda.";
    keep_going: "Keep going", "Seguir";
    left: "Going on", "Sigue";

    // Asking which.
    no_runs: "There is no run yet. /task starts one.", "Aún no hay ejecuciones. /task empieza una.";
    none_waits: "No plan waits for approval.", "Ningún plan espera aprobación.";
    none_open: "Nothing is running.", "No hay nada en marcha.";
    which_run: "Which one?", "¿Cuál?";
    no_plan: "Run {run} has no plan yet: {status}", "La ejecución {run} aún no tiene plan: {status}";

    // The chat.
    login: "This link signs you in as {user}, once, within ten minutes:", "Este enlace te identifica como {user}, una vez, durante diez minutos:";
    login_private: "Only where we are alone: write to me in private.", "Solo a solas: escríbeme en privado.";
    login_none: "devo.yaml gives your id {id} no user: `chat.telegram.users`.", "devo.yaml no da ningún usuario a tu id {id}: `chat.telegram.users`.";
    login_no_pages: "The pages have no address that you could open: `web.url` in devo.yaml.", "Las páginas no tienen una dirección que puedas abrir: `web.url` en devo.yaml.";
    lang_set: "I speak English here.", "Aquí hablo español.";
    lang_which: "en or es?", "¿en o es?";
    quiet_set: "I only tell what needs you: plans, questions, failures, results.", "Solo cuento lo que te necesita: planes, preguntas, fallos y resultados.";
    steps_set: "I also follow each run in one message.", "También sigo cada ejecución en un mensaje.";
    tools_set: "I also follow each run in one message, with what its steps do.", "También sigo cada ejecución en un mensaje, con lo que hacen sus pasos.";
    tools_in_group: "In a group I only follow the steps.", "En un grupo solo sigo los pasos.";
    verbose_which: "quiet, steps or tools?", "¿quiet, steps o tools?";
    muted: "{run} rings no more here; /unmute {run} undoes it.", "{run} ya no suena aquí; /unmute {run} lo deshace.";
    unmuted: "{run} rings here again.", "{run} vuelve a sonar aquí.";
    still_waits: "Still waiting since {at} UTC", "Sigue esperando desde {at} UTC";
    still_wait: "{n} runs wait for you:", "{n} ejecuciones te esperan:";
    queued_files: "In the inbox: {n}", "En el buzón: {n}";
    unknown_command: "I do not know /{name}.", "No conozco /{name}.";
    plain_text: "Text alone does nothing: /task TEXT asks for work; to change a plan or to answer a question, reply to it.",
        "El texto solo no hace nada: /task TEXTO pide un trabajo; para cambiar un plan o contestar una pregunta, responde a su mensaje.";
    no_longer: "That plan is not the current one any more.", "Ese plan ya no es el actual.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontends::words::Lang;

    #[test]
    fn the_menu_has_a_description_for_each_command() {
        for lang in [Lang::En, Lang::Es] {
            let all = serde_json::to_value(words(lang)).unwrap();
            for command in super::super::commands::MENU {
                let text = all[format!("menu_{command}")].as_str().expect("each command has its line");
                assert!(text.encode_utf16().count() <= 256);
            }
        }
    }
}

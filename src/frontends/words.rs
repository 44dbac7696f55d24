//! What channels say to people, in English and Spanish. One line per text, both languages side by side, so that neither can
//! be forgotten. It does not know where a text is shown.

use serde::Serialize;

pub use crate::templates::fill;

/// A language that people are spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lang {
    /// English.
    #[default]
    En,
    /// Spanish.
    Es,
}

impl Lang {
    /// The language of a tag like `es`, `es-MX` or `en-GB`; `None` for any other language.
    pub fn of_tag(tag: &str) -> Option<Self> {
        match tag.split(['-', '_']).next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "en" => Some(Self::En),
            "es" => Some(Self::Es),
            _ => None,
        }
    }

    /// The first language of ours in an `Accept-Language` header, by its weights; English if there is none.
    pub fn accepted(header: &str) -> Self {
        let mut best = (0.0, Self::default());
        for part in header.split(',') {
            let mut pieces = part.split(';');
            let Some(lang) = Self::of_tag(pieces.next().unwrap_or_default()) else { continue };
            let weight = pieces.find_map(|piece| piece.trim().strip_prefix("q="));
            let weight = weight.map_or(1.0, |weight| weight.parse::<f32>().unwrap_or(0.0));
            if weight > best.0 {
                best = (weight, lang);
            }
        }
        best.1
    }

    /// Its tag.
    pub fn tag(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Es => "es",
        }
    }

    /// A refusal in this language: the engine's own sentence is English and has the details; elsewhere its code says what is
    /// true, and an unknown one keeps the sentence.
    pub fn refusal<'m>(self, code: &str, message: &'m str) -> &'m str {
        match (self, code) {
            (Self::En, _) => message,
            (_, "superseded") => "ese plan ya no es el actual: hay otra revisión",
            (_, "not_waiting") => "la tarea no espera esa palabra ahora",
            (_, "finished") => "la tarea ya terminó o se está deteniendo",
            (_, "not_failed") => "no hay nada que reintentar: la tarea no ha fallado",
            (_, "unknown_step") => "la tarea no tiene ese paso",
            (_, "unknown_run") => "ninguna tarea tiene ese identificador",
            (_, "ambiguous_run") => "varias tareas empiezan así: escribe más letras del identificador",
            (_, "too_long") => "el texto está vacío o es demasiado largo",
            (_, "too_many") => "el plan ya tuvo todas las revisiones que puede tener",
            (_, "not_an_amount") => "responde con lo que se añade: dólares (`2` o `$2.50`) o tokens (`500000 tokens`)",
            (_, "disk_full") => "el disco está casi lleno: no se aceptan tareas nuevas hasta que haya espacio",
            _ => message,
        }
    }

    /// What a check of `devo doctor` is about, by its id; an unknown id is its own title.
    pub fn check_title(self, id: &str) -> String {
        let w = self.words();
        let (kind, name) = id.split_once('.').unwrap_or((id, ""));
        let title = match (kind, name) {
            ("git", "") => w.check_git,
            ("user", "") => w.check_user,
            ("home", "") => w.check_home,
            ("home", "private") => w.check_home_private,
            ("home", "writable") => w.check_home_writable,
            ("disk", "") => w.check_disk,
            ("journal", "") => w.check_journal,
            ("config", "") => w.check_config,
            ("roles", "") => w.check_roles,
            ("role", _) => w.check_role,
            ("repo", _) => w.check_repo,
            ("secret", _) => w.check_secret,
            ("web", "") => w.check_web,
            ("mail", "") => w.check_mail,
            ("telegram", "") => w.check_telegram,
            ("sandbox", _) => {
                let (sandbox, repo) = name.split_once('.').unwrap_or((name, ""));
                let title = if repo.is_empty() { w.check_sandbox } else { w.check_sandbox_repo };
                return fill(title, &[("name", sandbox), ("repo", repo)]);
            }
            _ => return id.to_owned(),
        };
        fill(title, &[("name", name)])
    }

    /// Its texts.
    pub fn words(self) -> &'static Words {
        words(self)
    }
}

/// A table of texts, both languages side by side, with `words(lang)` to read it and a test that it is complete.
macro_rules! table {
    ($($key:ident: $english:literal, $spanish:literal;)*) => {
        /// Every text, by its name.
        #[derive(Debug, serde::Serialize)]
        pub struct Words {
            $(#[doc = $english] pub $key: &'static str,)*
        }

        static ENGLISH: Words = Words { $($key: $english,)* };
        static SPANISH: Words = Words { $($key: $spanish,)* };

        /// The texts of a language.
        pub fn words(lang: $crate::frontends::words::Lang) -> &'static Words {
            match lang {
                $crate::frontends::words::Lang::En => &ENGLISH,
                $crate::frontends::words::Lang::Es => &SPANISH,
            }
        }

        #[cfg(test)]
        #[test]
        fn no_text_is_empty_and_both_languages_fill_the_same_names() {
            $crate::frontends::words::assert_complete(&ENGLISH, &SPANISH);
        }
    };
}
pub(super) use table;

/// Fails unless two tables have a text for every name, with the same values to fill in.
#[cfg(test)]
pub(super) fn assert_complete(english: &impl Serialize, spanish: &impl Serialize) {
    let names = |text: &str| {
        let mut found: Vec<String> =
            text.split('{').skip(1).filter_map(|part| Some(part.split_once('}')?.0.to_owned())).collect();
        found.sort();
        found
    };
    let (english, spanish) = (serde_json::to_value(english).unwrap(), serde_json::to_value(spanish).unwrap());
    for (key, text) in english.as_object().unwrap() {
        let (english, spanish) = (text.as_str().unwrap(), spanish[key].as_str().unwrap());
        assert!(!english.is_empty() && !spanish.is_empty(), "{key}");
        assert_eq!(names(english), names(spanish), "{key}");
    }
}

table! {
    // How a run stands.
    status_queued: "queued", "en cola";
    status_planning: "planning", "planificando";
    status_planned: "plan ready", "plan listo";
    status_executing: "working", "trabajando";
    status_completed: "done", "terminado";
    status_failed: "failed", "falló";
    status_aborted: "stopped", "detenido";

    // How a step stands.
    state_pending: "pending", "pendiente";
    state_running: "running", "en marcha";
    state_waiting: "waiting", "esperando";
    state_succeeded: "done", "hecho";
    state_failed: "failed", "falló";
    state_skipped: "skipped", "omitido";
    state_cancelled: "cancelled", "cancelado";

    // What a run needs of someone.
    need_approval: "plan to approve", "plan por aprobar";
    need_answer: "question", "pregunta";
    need_budget: "needs budget", "falta presupuesto";
    need_look: "failed", "falló";

    // A run that the daemon cannot take further.
    stands_still: "This run cannot go on now", "Esta ejecución no puede seguir por ahora";
    stands_still_about: "It is tried again every minute, and goes on where it is once this is mended. It can be aborted as it is.", "Se intenta de nuevo cada minuto y sigue donde está en cuanto se arregle. También se puede abortar así.";

    // What a person can do.
    approve: "Approve", "Aprobar";
    approve_revision: "Approve revision {n}", "Aprobar la revisión {n}";
    revise: "Revise", "Corregir";
    reject: "Reject", "Rechazar";
    answer: "Answer", "Responder";
    abort: "Abort", "Abortar";
    retry: "Retry", "Reintentar";
    open: "Open", "Abrir";

    // What is said once it was done.
    said_approve: "Approved. Work begins.", "Aprobado. El trabajo comienza.";
    said_revise: "Sent. The planner is making another revision.", "Enviado. El planificador prepara otra revisión.";
    said_reject: "Rejected. The run ends here.", "Rechazado. La ejecución termina aquí.";
    said_answer: "Answered. The run goes on.", "Respondido. La ejecución continúa.";
    said_abort: "Stopping. What runs is being put down.", "Deteniendo. Se está cerrando lo que corre.";
    said_retry: "Trying again. Finished steps are kept.", "Reintentando. Se conserva lo que ya terminó.";

    // Pages: the frame.
    skip: "Skip to content", "Saltar al contenido";
    menu: "Menu", "Menú";
    inbox: "Inbox", "Bandeja";
    new_task: "New task", "Nueva tarea";
    pipelines: "Pipelines", "Pipelines";
    doctor: "Doctor", "Diagnóstico";
    sign_out: "Sign out", "Salir";
    other_language: "Español", "English";
    cannot: "That did not work", "No se pudo";
    to_inbox: "To the inbox", "A la bandeja";
    no_page: "There is no page here.", "Aquí no hay ninguna página.";
    may_not: "Your role does not allow this.", "Tu rol no permite esto.";
    not_our_page: "This did not come from a page of ours. Load the page again.", "Esto no vino de una página nuestra. Vuelve a cargar la página.";
    no_such_word: "A run knows no such word.", "Una ejecución no conoce esa orden.";

    // Pages: signing in.
    sign_in: "Sign in", "Entrar";
    sign_in_here: "Sign in on this device", "Entrar en este dispositivo";
    token: "Token", "Token";
    token_about: "The owner's token is in the file “token” of devo's home. `devo login-link` prints a link that does this for you.", "El token del dueño está en el archivo «token» de la carpeta de devo. `devo login-link` imprime un enlace que lo hace por ti.";
    user: "User", "Usuario";
    password: "Password", "Contraseña";
    link_about: "This link signs this browser in. It works once, for ten minutes.", "Este enlace inicia sesión en este navegador. Funciona una vez, durante diez minutos.";
    link_over: "This link was used already, or its ten minutes are over. Make another with `devo login-link`.", "Este enlace ya se usó, o pasaron sus diez minutos. Crea otro con `devo login-link`.";
    wrong_credentials: "Nobody was recognised by that.", "Nadie fue reconocido con eso.";
    too_many_tries: "Too many tries from this address. Wait a minute.", "Demasiados intentos desde esta dirección. Espera un minuto.";

    // Pages: lists.
    needs_me: "Needs me", "Me necesita";
    needs_nothing: "Nothing needs you now.", "Nada te necesita ahora.";
    running: "Running", "En marcha";
    nothing_runs: "Nothing is running.", "No hay nada en marcha.";
    recent: "Recent", "Recientes";
    nothing_yet: "Nothing was done yet.", "Todavía no se ha hecho nada.";
    and_more: "… and {n} more", "… y {n} más";
    ago: "{age} ago", "hace {age}";

    // Pages: a new task.
    what_to_do: "What is to be done?", "¿Qué hay que hacer?";
    task_about: "A plan comes first; nothing is changed before it is approved.", "Primero viene un plan; nada se cambia antes de aprobarlo.";
    repo: "Repository", "Repositorio";
    pipeline: "Pipeline", "Pipeline";
    choose: "Choose", "Elegir";
    calls: "{n} calls", "{n} llamadas";
    required: "(required)", "(obligatorio)";
    submit: "Submit", "Enviar";
    no_pipelines: "This home has no valid pipeline. `devo validate` says why.", "Esta carpeta no tiene ningún pipeline válido. `devo validate` dice por qué.";
    has_problems: "This file has mistakes:", "Este archivo tiene errores:";

    // Pages: a run.
    run: "Run", "Ejecución";
    task: "Task", "Tarea";
    plan: "Plan", "Plan";
    revision: "revision", "revisión";
    changed_in: "What changed in revision {n}", "Qué cambió en la revisión {n}";
    older_revisions: "Earlier changes", "Cambios anteriores";
    open_questions: "Open questions", "Preguntas abiertas";
    open_questions_about: "Answer them with “Revise”.", "Respóndelas con «Corregir».";
    criteria: "Done when", "Terminado cuando";
    risks: "Risks", "Riesgos";
    assumptions: "Assumptions", "Supuestos";
    out_of_scope: "Left out", "Fuera de alcance";
    tests_may_change: "Tests that may change", "Pruebas que pueden cambiar";
    verified_by: "Checked by", "Se comprueba con";
    file_create: "new", "nuevo";
    file_modify: "changes", "cambia";
    file_delete: "goes", "se borra";
    estimate: "Estimate:", "Estimación:";
    on: "on", "sobre";
    approved_by: "Revision {n} approved by {who} ({channel})", "Revisión {n} aprobada por {who} ({channel})";
    revise_label: "What should be different?", "¿Qué debería ser distinto?";
    reject_label: "Why? (optional)", "¿Por qué? (opcional)";
    reject_now: "Reject, and end the run", "Rechazar y terminar la ejecución";
    question: "Question", "Pregunta";
    your_answer: "Your answer", "Tu respuesta";
    budget_label: "What to add: dollars (2) or tokens (500000 tokens)", "Qué añadir: dólares (2) o tokens (500000 tokens)";
    step_failed: "Step “{step}” failed", "Falló el paso «{step}»";
    why_ended: "Why it ended", "Por qué terminó";
    step: "Step", "Paso";
    steps: "Steps", "Pasos";
    step_of: "step {n} of {m}", "paso {n} de {m}";
    round: "round", "vuelta";
    attempt: "attempt", "intento";
    not_begun: "It has not begun.", "Aún no ha empezado.";
    graph: "Graph", "Grafo";
    graph_alt: "The steps and what each needs, as a drawing of the list above", "Los pasos y lo que cada uno necesita: un dibujo de la lista de arriba";
    result: "Result", "Resultado";
    from: "from", "desde";
    see_changes: "See the changes", "Ver los cambios";
    open_branch: "Open the branch", "Abrir la rama";
    compare: "Compare", "Comparar";
    log: "Log", "Registro";
    more_lines: "More of the log", "Más del registro";
    last_lines: "The last {n} lines; `devo logs` has all.", "Las últimas {n} líneas; `devo logs` las tiene todas.";
    no_lines: "Nothing was said.", "No se dijo nada.";
    all_steps: "all steps", "todos los pasos";
    show: "Show", "Mostrar";
    details: "Details", "Detalles";
    sandbox: "Sandbox", "Sandbox";
    started: "Started", "Comenzó";
    abort_about: "What runs is stopped. The branch and the files stay as they are; the run can be retried later.", "Se detiene lo que corre. La rama y los archivos quedan como están; se puede reintentar después.";
    abort_now: "Abort this run", "Abortar esta ejecución";
    back_to_run: "the run", "la ejecución";

    // Pages: what a run changed.
    changes: "Changes", "Cambios";
    files_changed: "Files changed: {n}", "Archivos cambiados: {n}";
    too_long: "Too long for a page:", "Demasiado largo para una página:";
    comment: "Comment on this file", "Comentar este archivo";
    comment_revise: "Send as a revision", "Enviar como corrección";
    comment_task: "Begin a task with it", "Empezar una tarea con esto";
    comment_size: "A comment has some text, and 4000 letters at most.", "Un comentario tiene texto, y 4000 letras como máximo.";
    no_changes: "Nothing was changed.", "No se cambió nada.";
    about_run: "About run", "Sobre la ejecución";

    // Pages: what the doctor found.
    doctor_about: "What is missing here, and the command that mends it.", "Qué falta aquí, y el comando que lo arregla.";
    check_ok: "ok", "bien";
    check_warning: "warning", "aviso";
    check_critical: "missing", "falta";
    check_skipped: "not tried", "sin probar";
    check_git: "Git", "Git";
    check_user: "Who devo runs as", "Con qué usuario corre devo";
    check_home: "Home", "Carpeta de devo";
    check_home_private: "Who can read the home", "Quién puede leer la carpeta";
    check_home_writable: "Writing to the home", "Escritura en la carpeta";
    check_disk: "Room on the disk", "Espacio en el disco";
    check_journal: "Journal of the runs", "Diario de las ejecuciones";
    check_config: "Settings (devo.yaml)", "Ajustes (devo.yaml)";
    check_roles: "Models", "Modelos";
    check_role: "Model of the role {name}", "Modelo del rol {name}";
    check_repo: "Repository {name}", "Repositorio {name}";
    check_secret: "Secret {name}", "Secreto {name}";
    check_web: "Pages and API", "Páginas y API";
    check_mail: "Mail", "Correo";
    check_telegram: "Telegram", "Telegram";
    check_sandbox: "Sandbox {name}", "Sandbox {name}";
    check_sandbox_repo: "Sandbox {name} for {repo}", "Sandbox {name} para {repo}";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_browsers_preference_decides() {
        assert_eq!(Lang::accepted("es-ES,es;q=0.9,en;q=0.8"), Lang::Es);
        assert_eq!(Lang::accepted("de,en-GB;q=0.7,es;q=0.3"), Lang::En);
        assert_eq!(Lang::accepted("fr;q=1, es;q=0.2"), Lang::Es);
        assert_eq!(Lang::accepted("es;q=x"), Lang::En);
        assert_eq!(Lang::accepted(""), Lang::En);
    }

    #[test]
    fn a_refusal_is_said_in_the_readers_language_or_at_least_said() {
        assert_eq!(Lang::En.refusal("finished", "the run has ended"), "the run has ended");
        assert!(Lang::Es.refusal("finished", "the run has ended").contains("terminó"));
        assert_eq!(Lang::Es.refusal("new_code", "some sentence"), "some sentence");
        // Every code with which the fold refuses a word.
        for code in "superseded not_waiting finished not_failed unknown_step too_long too_many not_an_amount".split(' ')
        {
            assert_ne!(Lang::Es.refusal(code, "english"), "english", "{code}");
        }
    }

    #[test]
    fn checks_have_titles_whatever_their_names() {
        assert_eq!(Lang::Es.check_title("home.private"), "Quién puede leer la carpeta");
        assert_eq!(Lang::En.check_title("repo.my.shop"), "Repository my.shop");
        assert_eq!(Lang::Es.check_title("sandbox.docker"), "Sandbox docker");
        assert_eq!(Lang::Es.check_title("sandbox.docker.my.shop"), "Sandbox docker para my.shop");
        assert_eq!(Lang::En.check_title("secret.{name}"), "Secret {name}");
        assert_eq!(Lang::En.check_title("something.new"), "something.new");
    }

    #[test]
    fn values_are_put_in_once() {
        assert_eq!(fill("a {n} b {m}", &[("n", "{m}"), ("m", "2")]), "a {m} b 2");
        assert_eq!(fill("open { and {other}", &[]), "open { and {other}");
    }
}

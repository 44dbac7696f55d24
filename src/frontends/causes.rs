//! What kind of failure it is, in one sentence of a reader's language. The engine's own words are English, and have the
//! details: an English reader needs no more, another one reads this first.

use super::words::Lang;

/// The sentence for a failure's code, or for a question's kind; empty where there is none to add.
pub fn cause(lang: Lang, code: &str) -> &'static str {
    match lang {
        Lang::En => "",
        Lang::Es => spanish(code),
    }
}

fn spanish(code: &str) -> &'static str {
    match code {
        // The work itself.
        "exit_code" => "El comando terminó con error.",
        "gate_failed" => "Las comprobaciones siguen en rojo.",
        "timeout" => "Se superó el límite de tiempo.",
        "wall_limit" => "La ejecución trabajó más tiempo del permitido.",
        "limit" | "plan_limit" | "too_many_turns" => "El modelo llegó a su límite sin terminar.",
        "no_call" | "unusable_reply" | "malformed_reply" => "El modelo no respondió de una forma que sirva.",
        "invalid_plan" => "El plan recibido no es válido.",
        "guard" => "Se cambiaron archivos protegidos que hay que dejar como estaban.",
        "not_approved" => "El plan actual no está aprobado.",
        "interrupted" => "El paso se interrumpió demasiadas veces.",
        "stuck" => "El paso no se detuvo a tiempo.",
        "output_too_large" => "La salida del paso es demasiado grande.",
        "bad_condition" | "bad_template" | "bad_output" => "El pipeline tiene una expresión que no se puede evaluar.",
        "nothing_to_commit" => "No hay ningún cambio que guardar.",
        // Git.
        "push_rejected" => "El servidor de git rechazó la rama.",
        "push_given_up" => "No se pudo llegar al servidor de git, y se decidió no seguir.",
        "push_not_landed" | "remote_moved" | "branch_moved" => "La rama cambió en el servidor mientras se trabajaba.",
        "protected_branch" => "Esa rama está protegida.",
        "not_the_tested_commit" => "Lo que se iba a enviar no es lo que se probó.",
        "repo_auth" | "no_credential" => "El servidor de git no acepta las credenciales.",
        "repo_not_found" | "unknown_repo" | "no_repo" => "No se encuentra el repositorio.",
        "unreachable" => "No se puede llegar al servidor de git.",
        "host_key" => "El servidor de git muestra una clave desconocida.",
        "base_missing" | "no_base" | "repo_empty" => "El repositorio no tiene la rama de la que se parte.",
        // Models.
        "no_key" | "bad_key" => "Falta la clave del modelo, o no es válida.",
        "quota" | "rate_limited" | "overloaded" => "El proveedor del modelo no acepta más peticiones por ahora.",
        "outage" | "network" | "provider_timeout" | "cut_reply" => "No se pudo hablar con el proveedor del modelo.",
        "context_too_long" => "La conversación ya no cabe en el modelo.",
        "cassette" | "cassette_mismatch" => "La grabación no sirve para esta ejecución.",
        // The machine.
        "disk_full" => "El disco está lleno.",
        "sandbox" => "No se puede usar el entorno aislado.",
        "container_lost" => "El contenedor desapareció mientras se trabajaba.",
        "secret" | "no_secret" | "not_granted" => "Falta un secreto, o el paso no puede usarlo.",
        "no_check" => "El repositorio no tiene esa comprobación.",
        "bug" => "Es un error de devo.",
        // Questions.
        "budget" => "Se alcanzó el presupuesto. Responde cuánto añadir: dólares (`2`) o tokens (`500000 tokens`).",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_of_common_failures_have_a_sentence_of_their_own() {
        for code in ["exit_code", "gate_failed", "timeout", "push_rejected", "no_key", "container_lost", "budget"] {
            assert!(cause(Lang::Es, code).contains('.'), "{code}");
            assert_eq!(cause(Lang::En, code), "", "the engine speaks English");
        }
        assert_eq!(cause(Lang::Es, "something_new"), "");
    }
}

//! What only mails say, in English and Spanish, side by side so that neither can be forgotten. Texts that other channels say as
//! well are in `frontends::words`.

use crate::frontends::words::table;

table! {
    plan_ready: "Plan to approve", "Plan por aprobar";
    question: "Question", "Pregunta";
    budget: "More budget?", "¿Más presupuesto?";
    failed: "Failed", "Falló";
    done: "Done", "Terminada";
    message: "Message", "Mensaje";
    reminder: "Reminder", "Recordatorio";
    waits_since: "It waits since {at}.", "Espera desde {at}.";
    repeat: "(This mail is sent again: it is not known whether the first one arrived.)",
        "(Este correo se envía de nuevo: no se sabe si el primero llegó.)";
    revision: "Plan, revision {n}: {files} files, about {usd} and {minutes} min",
        "Plan, revisión {n}: {files} archivos, unos {usd} y {minutes} min";
    approve: "Approve, revise or reject it:", "Apruébalo, corrígelo o recházalo:";
    answer: "Answer:", "Responde:";
    open: "Open the run:", "Abrir la ejecución:";
    retry: "Go on with it:", "Seguir con ella:";
    step_failed: "Step {step} failed:", "Falló el paso {step}:";
    branch: "Branch:", "Rama:";
    compare: "Compare, and create the pull request:", "Comparar y crear el pull request:";
    changes: "+{plus} −{minus} in {n} files", "+{plus} −{minus} en {n} archivos";
    tests: "Tests: {passed} passed, {failed} failed, {skipped} skipped", "Pruebas: {passed} bien, {failed} mal, {skipped} omitidas";
    cost: "Cost: {usd}", "Coste: {usd}";
    cut: "[cut here]", "[cortado aquí]";
    why: "You get this mail because devo.yaml or the task names this address.",
        "Recibes este correo porque devo.yaml o la tarea nombran esta dirección.";
}

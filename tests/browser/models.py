"""A fake of both model APIs for the browser tests: answers from a script, by how often each was asked."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TEST = """use tienda::inventario::Inventario;
use tienda::ventas::vender;

#[test]
fn no_baja_de_cero() {
    let mut inventario = Inventario::nuevo();
    inventario.reponer("café", 1);
    assert!(vender(&mut inventario, "café", 2, 100).is_err());
    assert_eq!(inventario.existencias("café"), 1);
}
"""

RULE = """    let quedan = inventario.existencias(producto);
    if unidades > quedan {
        return Err(ErrorVenta::SinExistencias { pedidas: unidades, quedan });
    }
    inventario.retirar(producto, unidades);
"""


def plan(title, **more):
    """A plan that the shop's checks accept."""
    return {
        "title": title,
        "summary": "Una venta no puede dejar el inventario por debajo de cero: vender() lo comprueba antes de retirar "
        "y devuelve un error que dice cuántas unidades quedan.",
        "steps": [
            {
                "id": "s1",
                "title": "Comprobar existencias antes de vender",
                "intent": "En vender(), antes de retirar unidades, comparar las pedidas con las que quedan.",
                "files": [{"path": "src/ventas.rs", "action": "modify", "why": "la regla y su error"}],
                "verify": [{"check": "test"}],
            },
            {
                "id": "s2",
                "title": "Una prueba para el caso",
                "intent": "Vender más de lo que hay falla y no cambia el inventario.",
                "depends_on": ["s1"],
                "files": [{"path": "tests/stock.rs", "action": "create", "why": "la prueba"}],
                "verify": [{"check": "test"}],
            },
        ],
        "criteria": [{"id": "c1", "text": "las pruebas pasan", "check": {"kind": "test", "ref": "test"}}],
        "tests_may_change": ["tests/stock.rs"],
        "risks": ["Quien llamaba con más unidades de las que hay recibe ahora un error."],
        **more,
    }


def claude(name, arguments):
    """One reply of the planner: a tool call."""
    content = [
        {"type": "thinking", "thinking": "", "signature": "c2lnbmF0dXJl"},
        {"type": "tool_use", "id": "toolu_0", "name": name, "input": arguments},
    ]
    usage = {"input_tokens": 900, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 0, "output_tokens": 200}
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-5-5", "content": content,
            "stop_reason": "tool_use", "usage": usage}


def gemini(*calls):
    """One reply of the executor: tool calls."""
    parts = []
    for number, (name, arguments) in enumerate(calls):
        part = {"functionCall": {"id": f"call-{number}", "name": name, "args": arguments}}
        if number == 0:
            part["thoughtSignature"] = "dGhvdWdodA=="
        parts.append(part)
    usage = {"promptTokenCount": 1000, "cachedContentTokenCount": 400, "candidatesTokenCount": 80,
             "thoughtsTokenCount": 20, "totalTokenCount": 1100}
    return {"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}],
            "usageMetadata": usage, "modelVersion": "gemini-3.8-flash", "responseId": "r1"}


def work():
    """What the executor does: a failing test, the rule, done."""
    variant = {"file_path": "src/ventas.rs", "old_string": "    CantidadInvalida(i64),\n",
               "new_string": "    CantidadInvalida(i64),\n    /// No quedan tantas unidades.\n"
                             "    SinExistencias { pedidas: i64, quedan: i64 },\n"}
    rule = {"file_path": "src/ventas.rs", "old_string": "    inventario.retirar(producto, unidades);\n", "new_string": RULE}
    return [
        gemini(("read_file", {"file_path": "src/ventas.rs"})),
        gemini(("write_file", {"file_path": "tests/stock.rs", "content": TEST}), ("run_tests", {})),
        gemini(("replace", rule), ("replace", variant), ("run_tests", {})),
        gemini(("finish", {"status": "done", "summary": "Hecho.", "evidence": []})),
    ]


class Models:
    """The server. `planner` and `executor` are the answers still to give; `gate` holds the executor while it is closed."""

    def __init__(self):
        self.planner, self.executor = [], []
        self.gate = threading.Event()
        self.gate.set()
        self.asked = 0
        models = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                models.asked += 1
                answers = models.planner if "/v1/messages" in self.path else models.executor
                if answers is models.executor:
                    models.gate.wait(60)
                refusal = {"type": "error", "error": {"type": "invalid_request_error", "code": 400,
                                                      "status": "INVALID_ARGUMENT", "message": "the script is at its end"}}
                status, reply = (200, answers.pop(0)) if answers else (400, refusal)
                body = json.dumps(reply).encode()
                try:
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except BrokenPipeError:
                    pass  # the run was aborted

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

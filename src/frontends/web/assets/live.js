// Keeps a page up to date. Without this script every page still works: forms are forms, links are links.
"use strict";

// The number of the run's last event that the page shows, and of the last one that was heard of.
let shown = Number(document.body.dataset.seq || 0);
let heard = shown;

// Takes the parts marked `data-live` from a fresh copy of this page. A part in which someone is writing stays as it is.
// False where there was no copy now, and may be one later.
async function refresh() {
  let fresh;
  try {
    // The answer to a form has an address of its own.
    const url = document.body.dataset.page || location.href;
    const reply = await fetch(url, { headers: { accept: "text/html" }, credentials: "same-origin" });
    if (reply.status === 429 || reply.status >= 500) return false;
    if (!reply.ok || reply.redirected) {
      // Signed out, or gone: nothing more will come.
      shown = heard;
      return true;
    }
    fresh = new DOMParser().parseFromString(await reply.text(), "text/html");
  } catch {
    return false;
  }
  // Of a run that has ended, it shows all there is.
  shown = Number(fresh.body.dataset.seq || heard);
  document.title = fresh.title;
  for (const old of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(old.id);
    if (!next || old.isEqualNode(next) || isBusy(old) || isBeingRead(old)) continue;
    const open = [...old.querySelectorAll("details")].map((one) => one.open);
    next.querySelectorAll("details").forEach((one, at) => { if (at < open.length) one.open = open[at]; });
    old.replaceWith(document.adoptNode(next));
  }
  times();
  return true;
}

function isBusy(part) {
  const written = [...part.querySelectorAll("textarea, input:not([type=hidden])")].some((one) => one.value !== one.defaultValue);
  return written || part.contains(document.activeElement);
}

// What was said to a word that was sent can be read, however soon the run goes on; a refusal stays until the next word.
const READ = 8000;
function isBeingRead(part) {
  return part.id === "said" && (part.querySelector(".bad") !== null || (part.childElementCount > 0 && performance.now() < READ));
}

// One refresh at a time, and at once: twenty with hardly a pause, more of them four times a second. What happens during
// the pause is shown by the next one; what the copy had already asks for none. Where there was no copy, it is asked for again.
const QUICK = 50, RARE = 250, AWAY = 2000, MANY = 20;
let busy = false;
let again = false;
let left = MANY;
let counted = performance.now();
async function soon() {
  again = true;
  if (busy) return;
  busy = true;
  while (again) {
    again = false;
    const came = await refresh();
    const now = performance.now();
    left = Math.min(MANY, left + (now - counted) / RARE) - 1;
    counted = now;
    await new Promise((done) => setTimeout(done, !came ? AWAY : left > 0 ? QUICK : RARE));
    if (!came || shown < heard) again = true;
  }
  busy = false;
}

// What was said belongs to the word that was sent, not to the address: a reload does not say it again.
function said() {
  const url = new URL(location.href);
  if (!url.searchParams.has("done")) return;
  url.searchParams.delete("done");
  history.replaceState(history.state, "", url);
  if (document.body.dataset.follow) setTimeout(soon, READ);
}

let ended = false;
function follow() {
  const { follow, event } = document.body.dataset;
  if (!follow) return;
  const source = new EventSource(event === "*" ? `${follow}?after=${shown}` : follow);
  if (event !== "*") {
    source.addEventListener(event, soon);
    source.addEventListener("open", soon);
    return;
  }
  const names = ["resumed", "step_started", "step_continued", "step_asked", "step_succeeded", "step_skipped", "step_failed",
    "step_cancelled", "step_interrupted", "step_parked", "call_finished", "approved", "revised", "rejected", "answered",
    "abort_requested", "retried", "rewound", "wall_limit_reached", "finished"];
  for (const name of names) {
    source.addEventListener(name, (sent) => {
      heard = Math.max(heard, Number(sent.lastEventId));
      if (heard > shown && !busy) soon();
    });
  }
  source.addEventListener("result", () => { source.close(); ended = true; soon(); });
}

// The log grows at its end, and stays there as long as the reader is there.
function lines() {
  const box = document.getElementById("log");
  if (!box) return;
  box.scrollTop = box.scrollHeight;
  if (!box.dataset.lines) return;
  const source = new EventSource(`${box.dataset.lines}?after=${encodeURIComponent(box.dataset.place)}`);
  source.addEventListener("line", (sent) => {
    const line = JSON.parse(sent.data);
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    const row = document.createElement("p");
    row.className = ["stdout", "stderr", "note"].includes(line.stream) ? line.stream : "note";
    const step = document.createElement("b");
    step.textContent = line.step;
    row.append(step, " ", line.text);
    box.append(row);
    while (box.childElementCount > 2000) box.firstElementChild.remove();
    if (atEnd) box.scrollTop = box.scrollHeight;
  });
  // A run that has ended says nothing more; otherwise the connection was lost, and the browser comes again.
  source.addEventListener("error", () => { if (ended) source.close(); });
}

// Instants in the reader's own time.
function times() {
  for (const one of document.querySelectorAll("dd time, .good time")) {
    const at = new Date(one.dateTime);
    if (!Number.isNaN(at.getTime())) {
      one.title = one.dateTime;
      one.textContent = at.toLocaleString(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" });
    }
  }
}

// The inputs of another pipeline come by themselves; without this script they come by the button.
for (const select of document.querySelectorAll("select[data-choose]")) {
  const button = document.getElementById(select.dataset.choose);
  if (!button) continue;
  button.hidden = true;
  select.addEventListener("change", () => {
    if (!select.selectedOptions[0].defaultSelected) select.form.requestSubmit(button);
  });
}

// A form is sent once, however often its button is pressed.
document.addEventListener("submit", (event) => {
  if (event.target.dataset.sent) { event.preventDefault(); return; }
  event.target.dataset.sent = "1";
});
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

// A link to the place for stopping also opens it.
addEventListener("hashchange", reveal);
function reveal() {
  const place = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  const details = place && place.querySelector(":scope > details");
  if (details) details.open = true;
}

follow();
lines();
times();
said();
reveal();

// Keeps the page up to date, and gives orders. The server writes and escapes the markup of each
// panel, with or without this script; here it is only put in its place. The token stays in its field.
"use strict";

const AGAIN_MS = 5000;
// The server sends a frame more often than that, also where nothing has changed.
const STALE_MS = Number(document.body.dataset.staleMs);
const ANSWER_MS = 15000;
const at = (id) => document.getElementById(id);
const panels = new Map();
for (const place of document.querySelectorAll("[data-panel]")) {
  panels.set(place.dataset.panel, { place, shown: null });
}
const buttons = document.querySelectorAll("[data-order]");
let orders = {};
let events;
let anew_at;

// === What the server says ===

function show(frame) {
  for (const [name, markup] of Object.entries(frame.panels)) {
    const panel = panels.get(name);
    // What stays the same is left alone: a selection in it stays too, and nothing is read out twice.
    if (panel && panel.shown !== markup) {
      panel.place.innerHTML = markup;
      panel.shown = markup;
    }
  }
  orders = frame.orders;
  for (const button of buttons) {
    // Not `disabled`: a button that had the focus would lose it.
    button.disabled = false;
    button.setAttribute("aria-disabled", String(Boolean(orders[button.dataset.order].why_not)));
  }
  at("as-of").textContent = frame.time;
  tell_link("live", true);
}

function tell_link(text, is_live) {
  if (at("link-state").textContent !== text) {
    at("link-state").textContent = text;
    at("link").classList.toggle("lost", !is_live);
  }
}

function lose() {
  tell_link("not live: trying again", false);
}

// To be called anew when no frame has come for long: a server that hangs, or a network that swallows
// everything, ends no connection.
function watch() {
  events?.close();
  anew_at = performance.now() + STALE_MS;
  const source = new EventSource("/api/v1/events");
  source.addEventListener("frame", (event) => {
    anew_at = performance.now() + STALE_MS;
    show(JSON.parse(event.data));
  });
  source.addEventListener("error", () => {
    lose();
    // The browser tries again by itself, but not where it was refused.
    if (source.readyState === EventSource.CLOSED) {
      anew_at = Math.min(anew_at, performance.now() + AGAIN_MS);
    }
  });
  events = source;
}

function look() {
  if (performance.now() >= anew_at) {
    lose();
    watch();
  }
}

// === Orders ===

function tell(text, is_good) {
  at("outcome").textContent = text;
  at("outcome").classList.toggle("bad", !is_good);
}

async function give(name) {
  const headers = { "Content-Type": "application/json" };
  const token = at("token").value.trim();
  if (token) {
    headers.Authorization = `Bearer ${token}`;
  }
  tell("Ordered …", true);
  try {
    const signal = AbortSignal.timeout(ANSWER_MS);
    const order = { method: "POST", headers, body: "{}", signal };
    const reply = await fetch(orders[name].path, order);
    const document = await reply.json();
    tell(reply.ok ? document.text : `Refused: ${document.detail}`, reply.ok);
  } catch (error) {
    const within = error.name === "TimeoutError" ? ` within ${ANSWER_MS / 1000} s` : "";
    tell(`There was no answer${within}. Whether it was done is not known: look at the guard.`, false);
  }
}

for (const button of buttons) {
  button.addEventListener("click", () => {
    const name = button.dataset.order;
    if (orders[name].why_not) {
      tell(orders[name].why_not, false);
    } else if (name === "rollback") {
      at("confirm").showModal();
    } else {
      give(name);
    }
  });
}
at("confirm-no").addEventListener("click", () => at("confirm").close());
at("confirm-yes").addEventListener("click", () => {
  at("confirm").close();
  give("rollback");
});

watch();
setInterval(look, 1000);

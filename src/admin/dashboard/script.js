// Keeps the page up to date, and gives orders. The server writes and escapes the markup of each
// panel, with or without this script; here it is only put in its place. The token stays in its field.
"use strict";

const AGAIN_MS = 5000;
const at = (id) => document.getElementById(id);
const panels = new Map();
for (const place of document.querySelectorAll("[data-panel]")) {
  panels.set(place.dataset.panel, { place, shown: null });
}
const buttons = document.querySelectorAll("[data-order]");
let orders = {};

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

function watch() {
  const events = new EventSource("/api/v1/events");
  events.addEventListener("frame", (event) => show(JSON.parse(event.data)));
  events.addEventListener("error", () => {
    tell_link("not live: trying again", false);
    // The browser tries again by itself, but not where it was refused.
    if (events.readyState === EventSource.CLOSED) {
      setTimeout(watch, AGAIN_MS);
    }
  });
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
    const reply = await fetch(orders[name].path, { method: "POST", headers, body: "{}" });
    const document = await reply.json();
    tell(reply.ok ? document.text : `Refused: ${document.detail}`, reply.ok);
  } catch {
    tell("There was no answer. Whether it was done is not known: look at the guard.", false);
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

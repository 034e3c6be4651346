// @ts-check
/** The page: what was started, what becomes of it, and how the parts talk to each other. */

import { Problem, call, inWords } from "./api.js";
import { Cards, running, spoken, statusOf } from "./cards.js";
import { announce, ask, byId } from "./dom.js";
import { Watcher, patiently } from "./events.js";
import { Form } from "./form.js";
import { KINDS } from "./kinds.js";

/** @typedef {import("./cards.js").Row} Row */

/** What was started, by its key, the newest first. @type {Map<string, Row>} */
let rows = new Map();
/** What is on its way to the server, which may not know of it yet. @type {Map<string, Row>} */
const sending = new Map();
/** @type {Form | null} */
let form = null;
let loaded = false;

const cards = new Cards(byId("cards"), { cancel, remove, again, look });
const watcher = new Watcher(hear);

function show() {
  const all = [...[...sending.values()].filter((row) => !rows.has(row.key)).reverse(), ...rows.values()];
  cards.show(all);
  byId("empty").hidden = !loaded || all.length > 0;
  byId("tidy").hidden = all.every(running);
  const going = all.filter(running).length;
  byId("summary").textContent = all.length ? `${going ? `${going} under way, ` : ""}${all.length - going} ended` : "";
  document.title = going ? `(${going}) Studio` : "Studio";
  /** @type {Map<string, string[]>} */
  const open = new Map();
  for (const row of rows.values()) {
    if (row.state !== "accepted" || row.generation.ended) continue;
    open.set(row.service, [...(open.get(row.service) ?? []), row.generation.ref]);
  }
  watcher.watch(open);
}

/** @type {Promise<void> | null} */
let fetching = null;
let outdated = false;
let later = 0;

/** Asks for the rows. Whoever asks while an answer is under way gets one that is newer. @returns {Promise<void>} */
function refetch() {
  if (fetching) {
    outdated = true;
    return fetching.then(() => (outdated ? refetch() : undefined));
  }
  outdated = false;
  fetching = fetchRows().finally(() => (fetching = null));
  return fetching;
}

async function fetchRows() {
  const fetched = await patiently(() => call("GET", "/api/started"), () => disconnected(true));
  disconnected(false);
  rows = new Map(fetched.map((/** @type {Row} */ row) => [row.key, newer(row, rows.get(row.key))]));
  for (const key of rows.keys()) if (rows.get(key)?.state !== "submitting") sending.delete(key);
  loaded = true;
  show();
  // Sent by a tab that is closed by now: nobody else tells of its answer.
  clearTimeout(later);
  const orphans = [...rows.values()].some((row) => row.state === "submitting" && !sending.has(row.key));
  if (orphans) later = setTimeout(refetch, 1000);
}

/** The server keeps what the pages tell it; this page may have heard more since. @param {Row} row @param {Row | undefined} known */
function newer(row, known) {
  if (known?.generation?.ended && row.generation && !row.generation.ended) row.generation = known.generation;
  if (known?.state === "gone" && row.state === "accepted" && !row.generation?.ended) row.state = "gone";
  return row;
}

/** @param {import("./events.js").News} news */
function hear(news) {
  if (news.rows) refetch();
  if (news.lost !== undefined) {
    disconnected(news.lost);
    if (!news.lost) refetch();
  }
  if (news.generation) seen(news.generation);
  if (news.gone) {
    const row = [...rows.values()].find((each) => each.generation?.ref === news.gone.ref);
    if (row && !row.generation.ended) {
      row.state = "gone";
      announce(spoken(row));
      show();
    }
  }
}

/** @param {any} generation */
function seen(generation) {
  const row = [...rows.values()].find((each) => each.generation?.ref === generation.ref);
  if (!row || row.generation.ended) return;
  const changed = JSON.stringify(row.generation) !== JSON.stringify(generation);
  if (!changed) return;
  row.generation = generation;
  if (generation.ended) announce(spoken(row));
  // One tab tells the server, so that the next page to open knows at once.
  if (watcher.leads) keep(row, generation);
  show();
}

/** @param {Row} row @param {any} generation */
async function keep(row, generation) {
  try {
    await call("PUT", `/api/started/${row.key}`, { json: generation });
    // A tab that did not know of it when it was told asks now.
    if (generation.ended) watcher.tellRows();
  } catch (error) {
    // It is told again to the next page that follows it.
    if (!(error instanceof Problem)) throw error;
  }
}

/** @param {boolean} lost */
function disconnected(lost) {
  byId("connection").textContent = lost ? "Reconnecting…" : "";
}

/** Starts all at once, each with a key of its own. @param {string} type @param {any[]} bodies */
function start(type, bodies) {
  const now = new Date().toISOString();
  const fresh = bodies.map((body) => /** @type {Row} */ ({
    key: crypto.randomUUID(), service: KINDS[type].service, type, body, created_at: now, generation: null, problem: null, state: "submitting",
  }));
  for (const row of fresh) sending.set(row.key, row);
  show();
  announce(fresh.length > 1 ? `${fresh.length} are started.` : "Started.");
  if (matchMedia("(max-width: 60rem)").matches) byId("made").scrollIntoView();
  for (const row of fresh) submit(row);
}

/** @param {Row} row */
async function submit(row) {
  try {
    const generation = await call("POST", `/api/${row.service}/${row.type}`, { json: row.body, headers: { "Idempotency-Key": row.key } });
    const accepted = { ...row, generation, state: /** @type {const} */ ("accepted"), problem: null };
    if (rows.has(row.key)) rows.set(row.key, accepted);
    else rows = new Map([[row.key, accepted], ...rows]);
    sending.delete(row.key);
    show();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.document.status === 422) {
      sending.delete(row.key);
      form?.refused(error.document);
    } else if (error.lost) {
      // Whether it arrived is known when the server can be asked again.
      disconnected(true);
      await refetch();
      if (!rows.has(row.key)) sending.set(row.key, { ...row, state: "refused", problem: { detail: "It did not reach the studio's server.", charged: "no" } });
    } else {
      sending.set(row.key, { ...row, state: error.document.charged === "no" ? "refused" : "unknown", problem: error.document });
      announce(inWords(error.document));
    }
    show();
  }
  watcher.tellRows();
  refetch();
}

/** @param {Row} row */
async function cancel(row) {
  try {
    seen(await call("POST", `/api/${row.service}/${row.generation.ref}/cancel`));
  } catch (error) {
    complain(error);
  }
}

/** @param {Row} row */
async function remove(row) {
  const below = [...rows.keys()];
  const next = below[below.indexOf(row.key) + 1] ?? below[below.indexOf(row.key) - 1];
  sending.delete(row.key);
  await hide([row]);
  if (next) cards.focus(next);
  else byId("made").focus();
}

/** @param {Row[]} all */
async function hide(all) {
  try {
    await Promise.all(all.map((row) => call("DELETE", `/api/started/${row.key}`)));
  } catch (error) {
    complain(error);
  }
  for (const row of all) {
    rows.delete(row.key);
    sending.delete(row.key);
  }
  show();
  watcher.tellRows();
}

/** The form as it was for this one. @param {Row} row */
async function again(row) {
  try {
    form?.fill(row.type, rows.has(row.key) ? await call("GET", `/api/started/${row.key}/body`) : row.body);
    byId("form").scrollIntoView();
  } catch (error) {
    complain(error);
  }
}

/** Asks once more under the same key. @param {Row} row */
async function look(row) {
  const free = row.service === "platform" && row.type === "model-request";
  const text =
    "The service has nothing to look it up by. As long as the studio's server knows this one, it answers as before; after a restart it sends it once more, and if the first one was accepted, it is paid for twice. The account's balance or history may tell.";
  if (!free && !(await ask("It may cost twice", text, "Look again all the same"))) return;
  try {
    const body = await call("GET", `/api/started/${row.key}/body`);
    await submit({ ...row, body });
  } catch (error) {
    complain(error);
  }
}

/** @param {unknown} error */
function complain(error) {
  if (!(error instanceof Problem)) throw error;
  const place = byId("list-problem");
  place.textContent = inWords(error.document);
  place.hidden = false;
  setTimeout(() => (place.hidden = true), 10_000);
}

/** A picture and words to try it with. */
async function example() {
  const picture = await (await fetch("example.jpg")).blob();
  await Promise.all(form?.loading.values() ?? []);
  const name = form?.kind ?? "";
  byId("prompt").value = KINDS[name].example ?? "";
  if (name === "speech") byId("words").value = byId("words").placeholder;
  form?.images.addFiles([new File([picture], "lighthouse.jpg", { type: "image/jpeg" })]);
  for (const choices of document.querySelectorAll(".field:not([hidden]) .choices")) {
    /** @type {HTMLInputElement | null} */ (choices.querySelector("input:not([value=''])"))?.click();
  }
  byId("start").focus();
}

async function begin() {
  const services = await patiently(() => call("GET", "/api/services"), () => disconnected(true));
  disconnected(false);
  const paid = Object.keys(services).filter((name) => !services[name].sandbox);
  const NAMES = /** @type {Record<string, string>} */ ({ proxy: "the proxy", platform: "the platform" });
  byId("money").textContent = paid.length ? `Real money: on ${paid.map((name) => NAMES[name]).join(" and ")}` : "Sandbox: nothing costs money";
  byId("money").classList.toggle("real", paid.length > 0);
  form = new Form(services, start);
  byId("example").addEventListener("click", example);
  byId("tidy").addEventListener("click", () => hide([...sending.values(), ...rows.values()].filter((row) => !running(row) && statusOf(row) !== "doubtful")));
  document.addEventListener("visibilitychange", () => document.hidden || refetch());
  await refetch();
}

begin();

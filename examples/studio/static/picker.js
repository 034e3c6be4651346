// @ts-check
/** Choosing from a catalogue: a grid of moving previews, or a list of what can be heard. */

import { Problem, call, inWords } from "./api.js";
import { announce, h, icon, still } from "./dom.js";

const player = new Audio();
/** @type {HTMLButtonElement | null} */
let playing = null;

function stopSound() {
  player.pause();
  playing?.replaceChildren(icon("play"));
  playing?.setAttribute("aria-pressed", "false");
  playing = null;
}

player.addEventListener("ended", stopSound);

/** @param {HTMLButtonElement} button @param {string} url */
function toggleSound(button, url) {
  const mine = playing === button;
  stopSound();
  if (mine) return;
  playing = button;
  button.replaceChildren(icon("pause"));
  button.setAttribute("aria-pressed", "true");
  player.src = url;
  player.play().catch((error) => {
    // Another one was begun in the meantime.
    if (error.name === "AbortError") return;
    stopSound();
    announce("This sound cannot be played.");
  });
}

/** @type {Map<string, Promise<any[]>>} */
const lists = new Map();

/** @param {string} path */
function listed(path) {
  let list = lists.get(path);
  if (!list) {
    list = call("GET", `/api/catalogues/${path}`);
    list.catch(() => lists.delete(path));
    lists.set(path, list);
  }
  return list;
}

export class Picker {
  /** @param {HTMLFieldSetElement} fieldset @param {() => void} changed */
  constructor(fieldset, changed) {
    this.fieldset = fieldset;
    this.changed = changed;
    this.name = fieldset.id;
    this.heard = fieldset.classList.contains("list");
    this.path = "";
    this.wanted = "";
    this.optional = false;
    const title = fieldset.querySelector("legend")?.textContent?.toLowerCase();
    this.search = h("input", {
      type: "search", placeholder: "Search", autocomplete: "off", spellcheck: false, "aria-label": `Search: ${title}`, className: "search",
      oninput: () => this.filter(),
    });
    this.choices = h("div", { className: "choices" });
    this.status = h("p", { className: "hint", role: "status" });
    fieldset.append(this.search, this.choices, this.status);
    this.choices.addEventListener("change", () => {
      this.wanted = this.choices.querySelector("input:checked")?.value ?? "";
      this.changed();
    });
    // Enter in a search must not start anything.
    this.search.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter") event.preventDefault();
    });
    this.seen = new IntersectionObserver((entries) => entries.forEach(inView), { root: this.choices, rootMargin: "80px" });
    still.addEventListener("change", () => this.path && this.load(this.path, this.optional));
  }

  get value() {
    return this.wanted;
  }

  set value(wanted) {
    this.wanted = wanted;
    for (const input of this.choices.querySelectorAll("input")) input.checked = input.value === wanted;
  }

  /** @param {string} path @param {boolean} optional */
  async load(path, optional) {
    const same = this.path === path && this.optional === optional && this.choices.childElementCount;
    if (same && !still.matches) return;
    this.path = path;
    this.optional = optional;
    this.status.textContent = "Loading…";
    let items;
    try {
      items = await listed(path);
    } catch (error) {
      const words = error instanceof Problem ? inWords(error.document) : "";
      const again = h("button", { type: "button", onclick: () => this.load(path, optional) }, "Try again");
      this.status.replaceChildren(`This list could not be loaded. ${words} `, again);
      return;
    }
    if (this.path !== path) return;
    this.seen.disconnect();
    const none = optional ? [{ id: "", name: "None" }] : [];
    this.choices.replaceChildren(...[...none, ...items].map((item) => (this.heard ? this.line(item) : this.tile(item))));
    this.value = this.wanted;
    this.search.hidden = items.length < 9;
    this.filter();
  }

  /** @param {any} item */
  radio(item) {
    return h("input", { type: "radio", name: this.name, value: item.id, checked: item.id === this.wanted });
  }

  /** @param {any} item */
  tile(item) {
    const preview = item.preview_url ? previewOf(item) : h("span", { className: "no-preview" });
    this.seen.observe(preview);
    return h("label", { className: "tile", title: item.name }, this.radio(item), preview, h("span", { className: "name" }, item.name));
  }

  /** @param {any} item */
  line(item) {
    const url = item.voice_url ?? item.sound_url;
    const about = [item.gender, item.age, item.description].filter(Boolean).join(", ");
    const play = url && h(
      "button",
      {
        type: "button", className: "hear", "aria-label": `Hear ${item.name}`, "aria-pressed": "false", title: "Hear it",
        onclick: (/** @type {any} */ event) => toggleSound(event.currentTarget, url),
      },
      icon("play"),
    );
    const words = [h("span", { className: "name" }, item.name), about && h("span", { className: "about" }, ` ${about}`)];
    return h("div", { className: "line" }, h("label", {}, this.radio(item), h("span", {}, ...words)), play);
  }

  filter() {
    const words = this.search.hidden ? "" : this.search.value.trim().toLowerCase();
    let found = 0;
    for (const choice of this.choices.children) {
      choice.hidden = Boolean(words) && !choice.textContent.toLowerCase().includes(words);
      found += choice.hidden ? 0 : 1;
    }
    this.status.textContent = words ? `${found || "Nothing"} found.` : "";
  }
}

/** @param {any} item */
function previewOf(item) {
  if (/\.(mp4|webm|mov)(\?|$)/i.test(item.preview_url)) {
    const video = h("video", { muted: true, loop: true, playsInline: true, preload: "none", tabIndex: -1, "aria-hidden": "true" });
    if (item.thumbnail_url) video.poster = item.thumbnail_url;
    video.dataset.src = item.preview_url;
    return video;
  }
  const image = h("img", { alt: "", loading: "lazy", src: item.preview_url });
  if (!still.matches) return image;
  // A canvas shows the first frame, and stays there.
  const canvas = h("canvas", { width: 320, height: 200, "aria-hidden": "true" });
  image.loading = "eager";
  image.addEventListener("load", () => canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height));
  return canvas;
}

/** Films play where they are seen, and are not even fetched before. @param {IntersectionObserverEntry} entry */
function inView({ target, isIntersecting }) {
  if (!(target instanceof HTMLVideoElement)) return;
  if (!isIntersecting) {
    target.pause();
    return;
  }
  if (!target.src && target.dataset.src) {
    target.preload = "metadata";
    target.src = target.dataset.src;
  }
  if (!still.matches) target.play().catch(() => {});
}

// @ts-check
/** What was made, as cards. A card changes where its generation did, so that a film that plays is left alone. */

import { inWords } from "./api.js";
import { duration, h, icon, moment } from "./dom.js";
import { described } from "./kinds.js";

/**
 * @typedef {{
 *   key: string, service: string, type: string, body: any, created_at: string, generation: any, problem: any,
 *   state: "submitting" | "accepted" | "refused" | "unknown" | "gone" | "lost",
 * }} Row
 * @typedef {{
 *   cancel: (row: Row) => void, remove: (row: Row) => void, again: (row: Row) => void, look: (row: Row) => void,
 * }} Actions
 */

const STATUS = /** @type {Record<string, string>} */ ({
  submitting: "Sending",
  queued: "Waiting",
  in_progress: "Working",
  unknown: "Working",
  completed: "Done",
  failed: "Failed",
  nsfw: "Rejected",
  canceled: "Canceled",
  refused: "Not started",
  doubtful: "Nobody knows",
  gone: "Gone",
});

/** One word for how it is. @param {Row} row */
export function statusOf(row) {
  if (row.state === "accepted" || (row.state === "gone" && row.generation?.ended)) return row.generation?.status ?? "queued";
  if (row.state === "unknown" || row.state === "lost") return "doubtful";
  return row.state;
}

/** @param {Row} row */
export const running = (row) => ["submitting", "queued", "in_progress", "unknown"].includes(statusOf(row));

/** How it ended, for those who listen. @param {Row} row */
export const spoken = (row) => `${described(row).title}: ${STATUS[statusOf(row)].toLowerCase()}.`;

/** Why, and what became of the money. @param {Row} row @returns {string} */
export function wordsFor(row) {
  const { generation, problem } = row;
  switch (statusOf(row)) {
    case "failed":
      return inWords({ detail: generation.reason ? sentence(generation.reason) : "The service gives no reason.", charged: generation.charged });
    case "nsfw":
      return inWords({ detail: "The service's moderation refused the prompt, the picture or the result.", charged: generation.charged });
    case "canceled":
      return inWords({ detail: "Canceled before it began.", charged: generation.charged });
    case "refused":
      return inWords(problem);
    case "gone":
      return "It cannot be found any more: it was made on a sandbox that has ended since, or with another key.";
    case "doubtful":
      return row.service === "platform" && row.type === "model-request"
        ? "It was sent, and the answer was lost: it may have been accepted. Looking again brings back the same one, and pays nothing twice."
        : "It was sent, and the answer was lost: it may have been accepted, and paid for.";
    default:
      return "";
  }
}

/** @param {string} text */
const sentence = (text) => (/[.!?]$/.test(text) ? text : `${text}.`);

/** Media are fetched where they are seen. */
const nearby = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      nearby.unobserve(target);
      const media = /** @type {HTMLVideoElement} */ (target);
      media.src = media.dataset.src ?? "";
    }
  },
  { rootMargin: "400px" },
);

class Card {
  /** @param {Row} row @param {Actions} actions */
  constructor(row, actions) {
    this.actions = actions;
    this.row = row;
    this.drawn = "";
    this.media = h("div", { className: "media" });
    this.title = h("h3", { id: `title-${row.key}`, tabIndex: -1 });
    this.pill = h("span", { className: "pill" });
    this.model = h("span", { className: "model" });
    this.clock = h("span", { className: "clock" });
    this.time = h("time", { dateTime: row.created_at }, moment(row.created_at));
    this.text = h("p", { className: "prompt" });
    this.words = h("p", { className: "words" });
    this.buttons = h("div", { className: "buttons" });
    this.element = h(
      "li",
      {},
      h(
        "article",
        { className: "card", "aria-labelledby": this.title.id },
        this.media,
        h(
          "div",
          { className: "about" },
          h("div", { className: "line" }, this.title, this.pill),
          this.text,
          this.words,
          h("div", { className: "line foot" }, h("p", { className: "facts" }, this.model, this.time, this.clock), this.buttons),
        ),
      ),
    );
    this.element.dataset.key = row.key;
    const { title, model, text } = described(row);
    this.title.textContent = title;
    this.model.textContent = model;
    this.text.textContent = text;
    this.text.title = text;
  }

  /** @param {Row} row */
  update(row) {
    this.row = row;
    const status = statusOf(row);
    const outputs = row.generation?.outputs ?? [];
    const drawn = JSON.stringify([status, outputs, wordsFor(row)]);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    this.element.dataset.status = status;
    this.pill.textContent = STATUS[status] ?? status;
    this.words.textContent = wordsFor(row);
    this.words.hidden = !this.words.textContent;
    this.drawMedia(status, outputs);
    this.drawButtons(status, outputs);
    this.tick();
  }

  tick() {
    const going = running(this.row);
    this.clock.textContent = going ? duration((Date.now() - Date.parse(this.row.created_at)) / 1000) : "";
    this.clock.hidden = !going;
  }

  /** @param {string} status @param {any[]} outputs */
  drawMedia(status, outputs) {
    const shown = preferred(outputs);
    this.media.className = `media many-${Math.min(shown.length, 4)}`;
    if (shown.length) {
      this.media.replaceChildren(...shown.map((output, index) => this.drawOutput(output, index, shown.length)));
      return;
    }
    const bars = () => h("span", { className: "bars", "aria-hidden": "true" }, h("i"), h("i"), h("i"), h("i"), h("i"));
    const sign = running(this.row) ? bars() : icon(status === "canceled" ? "stop" : "alert");
    const picture = pictureOf(this.row);
    const backdrop = picture && h("img", { className: "backdrop", alt: "", src: picture });
    backdrop?.addEventListener("error", () => backdrop.remove());
    this.media.replaceChildren(...[backdrop, sign].filter(Boolean));
  }

  /** @param {any} output @param {number} index @param {number} many */
  drawOutput(output, index, many) {
    const { title, text } = described(this.row);
    const name = `${title}${many > 1 ? ` ${index + 1} of ${many}` : ""}: ${text}`;
    const missing = () => h("p", { className: "missing" }, "The file is not there any more.");
    if (output.kind === "image") {
      const image = h("img", { alt: name });
      image.dataset.src = output.url;
      image.addEventListener("error", () => link.replaceWith(missing()));
      nearby.observe(image);
      const link = h("a", { href: output.url, target: "_blank", rel: "noopener", "aria-label": `Open: ${name}` }, image);
      return link;
    }
    if (output.kind === "audio") {
      const audio = h("audio", { controls: true, preload: "none", src: output.url, "aria-label": name });
      audio.addEventListener("error", () => audio.replaceWith(missing()));
      return audio;
    }
    if (output.kind !== "video") return h("a", { href: output.url, target: "_blank", rel: "noopener" }, "Open the file");
    const video = h("video", { playsInline: true, preload: "metadata", loop: true, "aria-label": name });
    video.dataset.src = output.url;
    video.addEventListener("error", () => frame.replaceWith(missing()));
    nearby.observe(video);
    const play = h(
      "button",
      {
        type: "button", className: "play", "aria-label": `Play: ${name}`,
        onclick: () => {
          if (!video.src) video.src = output.url;
          video.controls = true;
          play.hidden = true;
          video.play().catch(() => {});
          video.focus();
        },
      },
      icon("play"),
    );
    const frame = h("div", { className: "film" }, video, play);
    return frame;
  }

  /** @param {string} status @param {any[]} outputs */
  drawButtons(status, outputs) {
    const { row, actions } = this;
    const focused = this.buttons.contains(document.activeElement);
    const of = described(row).title;
    /** @type {any[]} */
    const buttons = [];
    /** @param {string} words @param {any} sign @param {(row: Row) => void} does */
    const button = (words, sign, does, className = "quiet") =>
      h("button", { type: "button", className, title: words, "aria-label": `${words}: ${of}`, onclick: () => does(this.row) }, icon(sign), h("span", {}, words));
    if (status === "queued" && row.state === "accepted" && row.type === "model-request") buttons.push(button("Cancel", "stop", actions.cancel));
    if (status === "doubtful") buttons.push(button("Look again", "again", actions.look, ""));
    const raw = outputs.filter((each) => each.variant === "raw");
    if (raw.length === 1) {
      const save = { className: "button quiet", href: raw[0].url, target: "_blank", rel: "noopener", download: "", title: "Save", "aria-label": `Save: ${of}` };
      buttons.push(h("a", save, icon("save"), h("span", {}, "Save")));
    }
    if (!running(row)) {
      buttons.push(button("Use again", "again", actions.again, "quiet bare"));
      buttons.push(button("Remove", "close", actions.remove, "quiet bare"));
    }
    this.buttons.replaceChildren(...buttons);
    // The button that was pressed may be gone: focus stays on its card.
    if (focused) this.title.focus();
  }
}

/** The picture it is made from, which the server keeps where it was given as a file. @param {Row} row @returns {string | undefined} */
function pictureOf({ key, body }) {
  const picture = body.images?.[0] ?? body.arguments?.image_url ?? body.image_references?.[0];
  return picture?.startsWith("data:") && picture.endsWith("…") ? `/api/started/${key}/picture` : picture;
}

/** Of each file the smaller one, which is made for showing. @param {any[]} outputs */
function preferred(outputs) {
  const small = outputs.filter((each) => each.variant === "min");
  return small.length ? small : outputs;
}

export class Cards {
  /** @param {HTMLUListElement} list @param {Actions} actions */
  constructor(list, actions) {
    this.list = list;
    this.actions = actions;
    /** @type {Map<string, Card>} */
    this.cards = new Map();
    setInterval(() => this.cards.forEach((card) => card.tick()), 1000);
  }

  /** The rows, the newest first. @param {Row[]} rows */
  show(rows) {
    const keys = new Set(rows.map((row) => row.key));
    for (const [key, card] of this.cards) {
      if (keys.has(key)) continue;
      card.element.remove();
      this.cards.delete(key);
    }
    /** @type {Element | null} */
    let before = this.list.firstElementChild;
    for (const row of rows) {
      let card = this.cards.get(row.key);
      if (!card) {
        card = new Card(row, this.actions);
        this.cards.set(row.key, card);
      }
      card.update(row);
      // What stands where it belongs is not moved: moving it would stop what it plays.
      if (card.element === before) before = card.element.nextElementSibling;
      else this.list.insertBefore(card.element, before);
    }
  }

  /** @param {string} key */
  focus(key) {
    this.cards.get(key)?.title.focus();
  }
}

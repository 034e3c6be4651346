// @ts-check
/** The form: what it shows for each kind, what it will cost, and the request that comes of it. */

import { Problem, call, inWords } from "./api.js";
import { byId, h } from "./dom.js";
import { Images } from "./images.js";
import { KINDS, copyOf, missing, priced } from "./kinds.js";
import { Picker } from "./picker.js";

const PICKERS = ["motion", "avatar", "voice", "sound"];
const TEXTS = ["prompt", "words", "template", "model", "shape", "quality", "count", "seed"];
const DRAFT = "studio-draft";

export class Form {
  /** @param {Record<string, {sandbox: boolean}>} services @param {(kind: string, bodies: any[]) => void} start */
  constructor(services, start) {
    this.start = start;
    this.kinds = Object.keys(KINDS).filter((name) => KINDS[name].service in services);
    this.kind = this.kinds[0];
    this.problem = byId("form-problem");
    this.button = byId("start");
    this.images = new Images(byId("images"), () => this.changed("images"));
    this.pickers = Object.fromEntries(PICKERS.map((name) => [name, new Picker(byId(name), () => this.changed(name))]));
    /** @type {Map<string, string>} */
    this.prices = new Map();
    /** @type {Record<string, Record<string, string>>} What was chosen for the kinds that are not shown. */
    this.chosen = {};
    this.timer = 0;
    /** @type {Map<string, Promise<void>>} */
    this.loading = new Map();
    byId("kinds").append(...this.kinds.map((name) => this.kindChoice(name)));
    for (const field of document.querySelectorAll("[data-field]")) {
      const name = /** @type {HTMLElement} */ (field).dataset.field ?? "";
      field.append(h("p", { className: "wrong", id: `wrong-${name}`, hidden: true }));
    }
    const form = byId("form");
    form.addEventListener("input", (/** @type {Event} */ event) => this.changed(/** @type {any} */ (event.target).name));
    form.addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.submit();
    });
    form.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.submit();
    });
    this.restore();
    this.choose(this.kind);
  }

  /** @param {string} name */
  kindChoice(name) {
    const { title, says } = KINDS[name];
    const radio = h("input", { type: "radio", name: "kind", value: name, checked: name === this.kind, onchange: () => this.choose(name) });
    return h("label", { className: "kind" }, radio, h("span", {}, h("strong", {}, title), h("small", {}, ` ${says}`)));
  }

  /** @param {string} name */
  choose(name) {
    this.remember();
    this.kind = name;
    const kind = KINDS[name];
    byId("kinds").querySelector(`input[value="${name}"]`).checked = true;
    for (const field of document.querySelectorAll("[data-field]")) {
      const shown = kind.fields.includes(/** @type {HTMLElement} */ (field).dataset.field ?? "");
      /** @type {HTMLElement} */ (field).hidden = !shown;
    }
    byId("prompt-label").textContent = kind.prompt ?? "Prompt";
    byId("prompt").placeholder = kind.example ?? "";
    byId("images-legend").textContent = kind.images.most > 1 ? "Pictures" : kind.images.names[0];
    for (const [id, options] of /** @type {[string, string[][]][]} */ ([["model", kind.models ?? []], ["shape", kind.shapes ?? []]])) {
      byId(id).replaceChildren(...options.map(([value, words]) => h("option", { value }, words)));
      const earlier = this.chosen[name]?.[id];
      if (options.some(([value]) => value === earlier)) byId(id).value = earlier;
    }
    this.images.configure(kind);
    for (const id of PICKERS) {
      if (!kind.fields.includes(id)) continue;
      const picker = this.pickers[id];
      const path = `${kind.service}/${byId(id).dataset.catalogue}`;
      this.loading.set(id, picker.load(path, kind.optional?.includes(id) ?? false));
    }
    this.tellWrong(new Map());
    this.changed("kind");
  }

  remember() {
    this.chosen[this.kind] = { model: byId("model").value, shape: byId("shape").value };
  }

  get values() {
    const texts = Object.fromEntries(TEXTS.map((name) => [name, byId(name).value.trim()]));
    const picked = Object.fromEntries(PICKERS.map((name) => [name, this.pickers[name].value]));
    return /** @type {import("./kinds.js").Form} */ ({ ...texts, ...picked, enhance: byId("enhance").checked, images: this.images.values });
  }

  get copies() {
    return Number(byId("copies").value);
  }

  /** @param {string} field */
  changed(field) {
    const wrong = byId(`wrong-${field}`);
    if (wrong && !wrong.hidden && !missing(KINDS[this.kind], this.values).has(field)) this.tellField(field, "");
    this.problem.hidden = true;
    this.button.textContent = this.copies > 1 ? `Make ${this.copies}` : "Make it";
    this.keep();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.estimate(), 250);
  }

  async estimate() {
    const kind = this.kind;
    const { priceless } = KINDS[kind];
    if (priceless) {
      this.showPrice({ text: priceless });
      return;
    }
    const body = priced(KINDS[kind], this.values);
    const question = JSON.stringify([kind, body.model_id ?? body.model, body.quality, body.count, body.arguments?.end_image_url]);
    if (!this.prices.has(question)) {
      byId("cost").classList.add("stale");
      try {
        this.prices.set(question, await call("POST", `/api/${KINDS[kind].service}/${kind}/estimate`, { json: body }));
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        byId("cost").textContent = "The price is not known now.";
        return;
      }
    }
    if (this.kind === kind) this.showPrice(this.prices.get(question));
  }

  /** @param {any} price */
  showPrice(price) {
    const cost = byId("cost");
    cost.classList.remove("stale");
    const words = inMoney(price, this.copies);
    cost.replaceChildren(...(words ? [h("strong", {}, words)] : [price.text ?? "The service does not say what this costs."]));
    cost.title = price.source ?? "";
  }

  /** @param {Map<string, string>} wrong */
  tellWrong(wrong) {
    for (const element of document.querySelectorAll(".wrong")) this.tellField(element.id.slice("wrong-".length), "");
    for (const [field, words] of wrong) this.tellField(field, words);
  }

  /** @param {string} field @param {string} words */
  tellField(field, words) {
    const element = byId(`wrong-${field}`);
    if (!element) return;
    element.textContent = words;
    element.hidden = !words;
    const control = byId(field);
    if (words) {
      control.setAttribute("aria-invalid", "true");
      control.setAttribute("aria-describedby", element.id);
    } else {
      control.removeAttribute("aria-invalid");
      control.removeAttribute("aria-describedby");
    }
  }

  /** @param {string} words */
  tell(words) {
    this.problem.textContent = words;
    this.problem.hidden = !words;
  }

  async submit() {
    // A second click right after the first one is the same click.
    if (this.button.getAttribute("aria-disabled") === "true") return;
    const name = this.kind;
    const kind = KINDS[name];
    if (kind.fields.includes("images") && this.images.address.value.trim()) this.images.addAddress();
    const wrong = missing(kind, this.values);
    this.tellWrong(wrong);
    if (wrong.size) {
      const field = [...wrong.keys()][0];
      const control = byId(field);
      (control.matches("fieldset") ? control.querySelector("input:not([hidden]), button") : control)?.focus();
      return;
    }
    this.button.setAttribute("aria-disabled", "true");
    this.tell("");
    try {
      const images = kind.fields.includes("images") ? await this.images.ready() : [];
      const body = kind.body({ ...this.values, images });
      this.start(name, Array.from({ length: this.copies }, (_, copy) => copyOf(body, copy)));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.tell(inWords(error.document));
    } finally {
      setTimeout(() => this.button.removeAttribute("aria-disabled"), 500);
    }
  }

  /** What the service had to say about the fields. @param {any} document */
  refused(document) {
    const named = (document.errors ?? []).map((/** @type {any} */ each) => `${each.loc.filter((/** @type {any} */ part) => part !== "body").join(" ")}: ${each.msg}`);
    this.tell(named.length ? `${named.join(". ")}. Nothing was charged.` : inWords(document));
  }

  /** Fills the form as it was for a row. @param {string} type @param {any} body */
  fill(type, body) {
    if (!this.kinds.includes(type)) return;
    this.remember();
    const fields = body.arguments ?? body;
    const wanted = {
      prompt: fields.prompt,
      words: fields.speak?.text,
      template: fields.product_placement_sample_id,
      quality: fields.quality,
      count: fields.count && String(fields.count),
      seed: fields.seed && String(fields.seed),
    };
    this.chosen[type] = {
      model: body.model_id ?? body.model ?? "",
      shape: fields.aspect_ratio ?? fields.size ?? (fields.width ? `${fields.width}x${fields.height}` : ""),
    };
    for (const [name, value] of Object.entries(wanted)) byId(name).value = value ?? byId(name).options?.[0]?.value ?? "";
    this.pickers.motion.value = fields.motion_id ?? fields.motions?.[0]?.id ?? "";
    this.pickers.avatar.value = fields.avatar_preset_id ?? "";
    this.pickers.voice.value = fields.speak?.voice_id ?? "";
    this.pickers.sound.value = fields.speak?.sound_id ?? "";
    byId("enhance").checked = fields.enhance_prompt !== false;
    this.images.clear();
    this.kind = type;
    this.choose(type);
    const given = fields.images ?? fields.image_references ?? [fields.image_url, fields.end_image_url];
    for (const url of given.filter(Boolean)) {
      if (url.startsWith("data:")) this.images.add({ file: fileOf(url), shown: url });
      else this.images.addAddress(url);
    }
    byId("prompt").focus();
  }

  keep() {
    const { images, ...values } = this.values;
    const draft = { kind: this.kind, values, addresses: this.images.addresses, chosen: this.chosen };
    sessionStorage.setItem(DRAFT, JSON.stringify(draft));
  }

  restore() {
    let draft;
    try {
      draft = JSON.parse(sessionStorage.getItem(DRAFT) ?? "");
    } catch {
      return;
    }
    if (!this.kinds.includes(draft.kind)) return;
    this.kind = draft.kind;
    this.chosen = { ...draft.chosen };
    for (const name of TEXTS) if (draft.values[name]) byId(name).value = draft.values[name];
    for (const name of PICKERS) this.pickers[name].value = draft.values[name] ?? "";
    byId("enhance").checked = draft.values.enhance;
    this.images.kind = KINDS[draft.kind];
    for (const url of draft.addresses) this.images.items.push({ url, shown: url });
    this.chosen[draft.kind] = { model: draft.values.model, shape: draft.values.shape };
  }
}

/** @param {any} price @param {number} copies */
function inMoney(price, copies) {
  const times = (/** @type {string} */ amount) => String(Number((Number(amount) * copies).toFixed(3)));
  if (price.points) return `${times(price.points)} points`;
  if (!price.credits) return "";
  return `${times(price.credits)} credits${price.usd ? ` (about $${(Number(price.usd) * copies).toFixed(2)})` : ""}`;
}

/** @param {string} uri */
function fileOf(uri) {
  const [head, data] = uri.split(",");
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  return new File([bytes], "picture", { type: head.slice("data:".length).split(";")[0] });
}

// @ts-check
/** Pictures: by address or as files, with a thumbnail each. What becomes of a file depends on the service. */

import { Problem, call, inWords } from "./api.js";
import { announce, h, icon } from "./dom.js";

const MOST_BYTES = 10 * 1024 * 1024;
// Of a request to the proxy, what is left for pictures: the rest of it is small.
const MOST_INLINE = MOST_BYTES - 64 * 1024;

/** @param {number} bytes */
const megabytes = (bytes) => `${(bytes / 1024 / 1024).toFixed(1)} MB`;

/** @param {Blob} file @returns {Promise<string>} */
const asDataUri = (file) =>
  new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(String(reader.result));
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });

export class Images {
  /** @param {HTMLFieldSetElement} fieldset @param {() => void} changed */
  constructor(fieldset, changed) {
    this.changed = changed;
    /** @type {{url?: string, file?: File, shown: string, inline?: string, uploaded?: Promise<string>, value?: string, wrong?: string}[]} */
    this.items = [];
    /** @type {import("./kinds.js").Kind | null} */
    this.kind = null;
    this.thumbnails = h("ul", { className: "thumbnails" });
    this.address = h("input", {
      type: "url", id: "image-address", placeholder: "https://…", autocomplete: "off", spellcheck: false, inputMode: "url",
      "aria-label": "Address of a picture",
    });
    this.chooser = h("input", { type: "file", id: "image-file", accept: "image/*", multiple: true, className: "hidden-file" });
    this.hint = h("p", { className: "hint", id: "images-hint" });
    this.problem = h("p", { className: "problem", role: "alert", hidden: true });
    this.adding = h(
      "div", { className: "adding" },
      this.chooser,
      h("label", { htmlFor: "image-file", className: "button" }, icon("picture"), "Choose a file"),
      h("div", { className: "address" }, this.address, h("button", { type: "button", onclick: () => this.addAddress() }, "Add")),
    );
    fieldset.append(this.thumbnails, this.adding, this.hint, this.problem);

    this.chooser.addEventListener("change", () => {
      this.addFiles([...this.chooser.files]);
      this.chooser.value = "";
    });
    this.address.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      this.addAddress();
    });
    this.address.addEventListener("paste", (/** @type {ClipboardEvent} */ event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (!files.length) return;
      event.preventDefault();
      this.addFiles(files);
    });
    fieldset.addEventListener("dragover", (event) => {
      event.preventDefault();
      fieldset.classList.add("dropping");
    });
    fieldset.addEventListener("dragleave", () => fieldset.classList.remove("dropping"));
    fieldset.addEventListener("drop", (event) => {
      event.preventDefault();
      fieldset.classList.remove("dropping");
      const address = event.dataTransfer?.getData("text/uri-list");
      if (event.dataTransfer?.files.length) this.addFiles([...event.dataTransfer.files]);
      else if (address) this.addAddress(address);
    });
  }

  /** What these pictures are for. @param {import("./kinds.js").Kind} kind */
  configure(kind) {
    this.kind = kind;
    this.tell("");
    this.show();
  }

  get addresses() {
    return this.items.flatMap((item) => (item.url ? [item.url] : []));
  }

  /** What stands in the request now; a file that is still on its way stands there as "…". */
  get values() {
    const { most } = this.kind?.images ?? { most: 0 };
    return this.items.slice(0, most).map((item) => item.url ?? "…");
  }

  /** What stands in the request once all files are ready. @returns {Promise<string[]>} */
  async ready() {
    if (this.address.value.trim()) this.addAddress();
    const { most } = this.kind?.images ?? { most: 0 };
    const items = this.items.slice(0, most);
    const values = await Promise.all(items.map((item) => item.url ?? this.sent(item)));
    const inline = values.filter((value) => value.startsWith("data:")).reduce((sum, value) => sum + value.length, 0);
    if (inline > MOST_INLINE) throw new Problem({ detail: tooLarge(inline) });
    return values;
  }

  /** A file as its service takes it: the platform by an address, the proxy within the request. @param {any} item */
  sent(item) {
    if (this.kind?.service === "proxy") {
      item.inline ??= asDataUri(item.file);
      return item.inline;
    }
    item.uploaded ??= call("POST", "/api/platform/uploads", {
      body: item.file,
      headers: { "Content-Type": item.file.type },
    }).then(({ url }) => url);
    item.uploaded.catch((/** @type {any} */ error) => {
      item.uploaded = undefined;
      if (error instanceof Problem) this.tell(`${item.file.name} was not uploaded. ${inWords(error.document)}`);
    });
    return item.uploaded;
  }

  /** @param {string} [text] */
  addAddress(text = this.address.value) {
    const url = text.trim();
    if (!url) return;
    if (!/^https?:\/\/[^\s/]\S*$/.test(url)) {
      this.tell("This is no address of a picture: it begins with https://");
      return;
    }
    this.add({ url, shown: url });
    this.address.value = "";
  }

  /** @param {File[]} files */
  addFiles(files) {
    for (const file of files) {
      if (!file.type.startsWith("image/")) this.tell(`${file.name} is no picture.`);
      else if (file.size > MOST_BYTES) this.tell(`${file.name}: ${tooLarge(file.size)}`);
      else this.add({ file, shown: URL.createObjectURL(file) });
    }
  }

  /** @param {any} item */
  add(item) {
    const { most } = this.kind?.images ?? { most: 1 };
    // Where there is room for one, the new one takes its place.
    if (most === 1) this.items = [];
    if (this.items.length >= most) {
      this.tell(`No more than ${most} pictures.`);
      return;
    }
    this.items.push(item);
    this.tell("");
    if (item.file && this.kind?.service === "platform") this.sent(item);
    this.show();
    announce("A picture was added.");
    this.changed();
  }

  /** @param {any} item */
  remove(item) {
    if (item.file) URL.revokeObjectURL(item.shown);
    this.items = this.items.filter((each) => each !== item);
    this.tell("");
    this.show();
    this.chooser.focus();
    announce("The picture was removed.");
    this.changed();
  }

  show() {
    if (!this.kind) return;
    const { most, names } = this.kind.images;
    const many = this.items.length;
    this.thumbnails.replaceChildren(
      ...this.items.slice(0, most).map((item, index) => {
        const name = names[Math.min(index, names.length - 1)];
        const image = h("img", { src: item.shown, alt: `${name}: ${item.file?.name ?? item.url}` });
        image.addEventListener("error", () => image.replaceWith(h("span", { className: "unseen" }, icon("picture"))));
        const remove = h(
          "button",
          { type: "button", className: "remove", "aria-label": `Remove: ${name}`, title: "Remove", onclick: () => this.remove(item) },
          icon("close"),
        );
        return h("li", {}, image, h("span", { className: "name" }, name), remove);
      }),
    );
    this.thumbnails.hidden = !many;
    this.adding.hidden = most > 1 && many >= most;
    const next = names[Math.min(many, names.length - 1)].toLowerCase();
    this.hint.textContent = this.adding.hidden ? "" : most === 1 && many ? "Another one takes its place." : `Drop a picture here: the ${next}${many >= this.kind.images.least ? ", if you like" : ""}.`;
    const inline = this.kind.service === "proxy" ? this.items.slice(0, most).reduce((sum, item) => sum + ((item.file?.size ?? 0) * 4) / 3, 0) : 0;
    if (inline > MOST_INLINE) this.tell(tooLarge(inline));
  }

  /** @param {string} words */
  tell(words) {
    this.problem.textContent = words;
    this.problem.hidden = !words;
  }

  clear() {
    for (const item of [...this.items]) if (item.file) URL.revokeObjectURL(item.shown);
    this.items = [];
    this.show();
  }
}

/** @param {number} bytes */
const tooLarge = (bytes) =>
  `That is ${megabytes(bytes)} as it is sent, and the service takes 10 MB in all. Use smaller pictures, or their addresses.`;

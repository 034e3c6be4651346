// @ts-check
/** Small helpers: elements, words and times. */

/** @type {(id: string) => any} */
export const byId = (id) => document.getElementById(id);

/**
 * An element. What begins with "on" is a listener, what an element has as a property is set so, the rest are attributes.
 * @param {string} tag
 * @param {Record<string, any>} [given]
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {any}
 */
export function h(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list" && name !== "form") /** @type {any} */ (element)[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const SHAPES = {
  play: "M8 5.5v13l11-6.5z",
  pause: "M7 5h4v14H7zM13 5h4v14h-4z",
  close: "M6 6l12 12M18 6L6 18",
  again: "M4 12a8 8 0 1 1 2.5 5.8M4 19v-5h5",
  save: "M12 4v11m-5-5l5 5 5-5M5 20h14",
  stop: "M7 7h10v10H7z",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9.5h.01",
  alert: "M12 4l9 16H3zM12 10v4M12 17h.01",
};

/**
 * An icon, which says nothing by itself.
 * @param {keyof typeof SHAPES} name
 */
export function icon(name) {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  const path = document.createElementNS(namespace, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", `icon icon-${name}`);
  path.setAttribute("d", SHAPES[name]);
  svg.append(path);
  return svg;
}

/** Tells those who listen to the page. The same words twice are said twice. @param {string} words */
export function announce(words) {
  const announcer = byId("announcer");
  announcer.append(h("span", {}, `${words} `));
  while (announcer.children.length > 5) announcer.firstChild.remove();
}

/** @param {string} title @param {string} text @param {string} yes @returns {Promise<boolean>} */
export function ask(title, text, yes) {
  const dialog = byId("ask");
  byId("ask-title").textContent = title;
  byId("ask-text").textContent = text;
  byId("ask-yes").textContent = yes;
  return new Promise((answered) => {
    byId("ask-yes").onclick = () => dialog.close("yes");
    byId("ask-no").onclick = () => dialog.close("no");
    dialog.returnValue = "no";
    dialog.addEventListener("close", () => answered(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
  });
}

/** @param {number} seconds */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

const TODAY = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", hour12: false });
const EARLIER = new Intl.DateTimeFormat("en", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hour12: false });

/** @param {string} iso */
export function moment(iso) {
  const then = new Date(iso);
  return (then.toDateString() === new Date().toDateString() ? TODAY : EARLIER).format(then);
}

/** Whether moving pictures are unwelcome. */
export const still = matchMedia("(prefers-reduced-motion: reduce)");

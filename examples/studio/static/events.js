// @ts-check
/**
 * What happens to the generations, as it happens.
 *
 * A browser opens six connections to one host, over all tabs. So one tab follows the events, one stream for each service,
 * and tells the others; when it is closed, another one takes over.
 */

import { Problem } from "./api.js";

/** @typedef {{generation?: any, gone?: any, rows?: boolean, lost?: boolean}} News */

// An address has its limits; what is older waits until something newer has ended.
const MOST_REFS = 40;
const FIRST_PAUSE = 1000;
const LONGEST_PAUSE = 10_000;

export class Watcher {
  /** @param {(news: News) => void} hear  What became known, here or in the tab that follows. */
  constructor(hear) {
    this.hear = hear;
    this.leads = false;
    /** @type {Map<string, string[]>} */
    this.wanted = new Map();
    /** @type {Map<string, {source: EventSource, refs: Set<string>}>} */
    this.streams = new Map();
    this.pause = FIRST_PAUSE;
    this.lost = false;
    this.timer = 0;
    this.channel = new BroadcastChannel("studio");
    this.channel.onmessage = ({ data }) => this.hear(data);
    const lead = () => {
      this.leads = true;
      this.sync();
      return new Promise(() => {});
    };
    if (navigator.locks) navigator.locks.request("studio-events", lead);
    else lead();
    addEventListener("online", () => this.reopen());
    addEventListener("offline", () => this.leads && this.lose());
  }

  /** To this tab and to the others. @param {News} news */
  tell(news) {
    this.channel.postMessage(news);
    this.hear(news);
  }

  /** Other tabs: what was started has changed. */
  tellRows() {
    this.channel.postMessage({ rows: true });
  }

  /** Which generations to follow from now on. @param {Map<string, string[]>} wanted  By service. */
  watch(wanted) {
    this.wanted = wanted;
    if (!this.leads) return;
    // What has ended is left before the server ends it: that would look like a lost connection.
    for (const service of this.streams.keys()) if (!wanted.get(service)?.length) this.close(service);
    // Several that are started at once are one change.
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.sync(), 50);
  }

  sync() {
    for (const service of new Set([...this.wanted.keys(), ...this.streams.keys()])) {
      const refs = (this.wanted.get(service) ?? []).slice(0, MOST_REFS);
      const stream = this.streams.get(service);
      if (!refs.length) this.close(service);
      else if (!stream || refs.some((ref) => !stream.refs.has(ref))) this.open(service, refs);
    }
    if (!this.streams.size) this.find();
  }

  /** @param {string} service */
  close(service) {
    this.streams.get(service)?.source.close();
    this.streams.delete(service);
  }

  /** @param {string} service @param {string[]} refs */
  open(service, refs) {
    this.close(service);
    const query = new URLSearchParams(refs.map((ref) => ["ref", ref]));
    const source = new EventSource(`/api/${service}/events?${query}`);
    this.streams.set(service, { source, refs: new Set(refs) });
    source.onopen = () => this.find();
    source.onmessage = ({ data }) => {
      this.find();
      this.tell({ generation: JSON.parse(data) });
    };
    source.addEventListener("problem", ({ data }) => this.tell({ gone: JSON.parse(data) }));
    source.onerror = () => {
      if (this.streams.get(service)?.source !== source) return;
      this.lose();
      // The browser tries again by itself, unless it was answered with an error.
      if (source.readyState !== EventSource.CLOSED) return;
      this.close(service);
      setTimeout(() => this.sync(), this.pause);
      this.pause = Math.min(2 * this.pause, LONGEST_PAUSE);
    };
  }

  reopen() {
    for (const service of [...this.streams.keys()]) this.close(service);
    this.sync();
  }

  lose() {
    if (this.lost) return;
    this.lost = true;
    this.tell({ lost: true });
  }

  find() {
    this.pause = FIRST_PAUSE;
    if (!this.lost) return;
    this.lost = false;
    this.tell({ lost: false });
  }
}

/** Does it again and again, ever more slowly, until somebody answers. @template T @param {() => Promise<T>} attempt @param {(again: boolean) => void} failed @returns {Promise<T>} */
export async function patiently(attempt, failed) {
  for (let pause = FIRST_PAUSE; ; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof Problem && error.lost)) throw error;
      failed(true);
      await new Promise((done) => setTimeout(done, pause));
    }
  }
}

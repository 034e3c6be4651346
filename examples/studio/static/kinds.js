// @ts-check
/** What can be made: which service makes it, what the form asks for, and the request that comes of it. */

/**
 * @typedef {{
 *   prompt: string, words: string, images: string[], motion: string, avatar: string, voice: string, sound: string,
 *   template: string, model: string, shape: string, quality: string, count: string, seed: string, enhance: boolean,
 * }} Form
 * @typedef {{
 *   service: "proxy" | "platform", title: string, says: string, fields: string[], prompt?: string, example?: string,
 *   images: {least: number, most: number, names: string[]}, models?: string[][], shapes?: string[][],
 *   optional?: string[], priceless?: string, body: (form: Form) => Record<string, any>,
 * }} Kind
 */

/** Without what was left open. @param {Record<string, any>} fields */
const given = (fields) =>
  Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== "" && value !== undefined && value !== null));

/** @param {string} text */
const number = (text) => (text === "" ? undefined : Number(text));

/** @param {string} shape */
const size = (shape) => {
  const [width, height] = shape.split("x").map(Number);
  return shape ? { width, height } : {};
};

const SIZES = [
  ["", "Original"],
  ["736x1312", "Portrait, 9:16"],
  ["1312x736", "Landscape, 16:9"],
  ["960x960", "Square"],
];

/** @type {Record<string, Kind>} */
export const KINDS = {
  "image-to-video": {
    service: "proxy",
    title: "Motion video",
    says: "A picture, set in motion",
    prompt: "What happens",
    example: "The beam of the lighthouse sweeps over the sea",
    fields: ["prompt", "images", "motion", "model", "shape", "seed", "enhance"],
    images: { least: 1, most: 2, names: ["First frame", "Last frame"] },
    models: [["turbo", "Turbo"], ["lite", "Lite"], ["standard", "Standard"]],
    shapes: SIZES,
    body: (form) =>
      given({
        model: form.model,
        motion_id: form.motion,
        prompt: form.prompt,
        images: form.images,
        enhance_prompt: form.enhance ? undefined : false,
        seed: number(form.seed),
        ...size(form.shape),
      }),
  },
  speech: {
    service: "proxy",
    title: "Talking avatar",
    says: "A face that says your words",
    prompt: "How it is said",
    example: "Warm and calm, with a smile",
    fields: ["words", "prompt", "images", "avatar", "voice", "sound", "shape"],
    images: { least: 1, most: 1, names: ["Face"] },
    shapes: SIZES,
    optional: ["sound"],
    body: (form) =>
      given({
        avatar_preset_id: form.avatar,
        prompt: form.prompt,
        images: form.images,
        speak: given({ text: form.words, voice_id: form.voice, sound_id: form.sound }),
        ...size(form.shape),
      }),
  },
  ad: {
    service: "proxy",
    title: "Product ad",
    says: "A product, in a film of its own",
    fields: ["template", "images", "shape"],
    images: { least: 1, most: 1, names: ["Product"] },
    shapes: [["", "Original"], ["1024x1024", "Square"], ["1312x736", "Landscape, 16:9"], ["736x1312", "Portrait, 9:16"]],
    body: (form) => given({ product_placement_sample_id: form.template, images: form.images, size: form.shape }),
  },
  keyframes: {
    service: "platform",
    title: "Images",
    says: "Pictures, from words",
    prompt: "What to see",
    example: "A lighthouse in a storm, seen from the sea",
    fields: ["prompt", "images", "shape", "quality", "count", "seed"],
    priceless: "The platform tells this price only afterwards.",
    images: { least: 0, most: 8, names: ["Picture to go by"] },
    shapes: [["3:4", "3:4"], ["1:1", "Square"], ["16:9", "16:9"], ["9:16", "9:16"], ["4:3", "4:3"], ["3:2", "3:2"], ["2:3", "2:3"]],
    body: (form) =>
      given({
        prompt: form.prompt,
        aspect_ratio: form.shape,
        quality: form.quality,
        count: Number(form.count),
        seed: number(form.seed),
        image_references: form.images.length ? form.images : undefined,
      }),
  },
  "model-request": {
    service: "platform",
    title: "DoP video",
    says: "A picture, filmed. Can be canceled",
    prompt: "What happens",
    example: "The storm passes, and the sun comes out",
    fields: ["prompt", "images", "motion", "model", "seed", "enhance"],
    images: { least: 1, most: 2, names: ["First frame", "Last frame"] },
    models: [
      ["higgsfield-ai/dop/turbo", "DoP Turbo"],
      ["higgsfield-ai/dop/lite", "DoP Lite"],
      ["higgsfield-ai/dop/standard", "DoP Standard"],
    ],
    optional: ["motion"],
    body: (form) => ({
      model_id: form.model,
      arguments: given({
        prompt: form.prompt,
        image_url: form.images[0],
        end_image_url: form.images[1],
        motions: form.motion ? [{ id: form.motion, strength: 1 }] : undefined,
        enhance_prompt: form.enhance ? undefined : false,
        seed: number(form.seed),
      }),
    }),
  },
};

const MISSING = /** @type {Record<string, string>} */ ({
  prompt: "Say what to make.",
  words: "Write what is to be said.",
  motion: "Choose a motion.",
  avatar: "Choose a manner of speaking.",
  voice: "Choose a voice.",
  template: "Name the template.",
});

/** What is still missing, by field. @param {Kind} kind @param {Form} form @returns {Map<string, string>} */
export function missing(kind, form) {
  const found = new Map();
  for (const field of kind.fields) {
    if (kind.optional?.includes(field)) continue;
    if (field === "images" && form.images.length < kind.images.least) found.set(field, "Give a picture.");
    else if (field in MISSING && !String(form[/** @type {keyof Form} */ (field)]).trim()) found.set(field, MISSING[field]);
  }
  if (kind.fields.includes("seed") && form.seed !== "") {
    const seed = Number(form.seed);
    if (!Number.isInteger(seed) || seed < 1 || seed > 1_000_000) found.set("seed", "A whole number from 1 to 1,000,000.");
  }
  return found;
}

/** The request as far as its price goes: what is missing is filled in, and pictures stay here. @param {Kind} kind @param {Form} form */
export function priced(kind, form) {
  const picture = "https://example.com/picture.png";
  const images = form.images.map(() => picture);
  while (images.length < kind.images.least) images.push(picture);
  const filler = { prompt: "…", words: "…", motion: kind.optional?.includes("motion") ? "" : "…", avatar: "…", voice: "…", template: "…" };
  const filled = Object.fromEntries(Object.entries(filler).map(([name, value]) => [name, form[/** @type {keyof Form} */ (name)] || value]));
  return kind.body({ ...form, ...filled, images, seed: "" });
}

/** Several of the same, which are to differ: a seed goes up. @param {Record<string, any>} body @param {number} copy */
export function copyOf(body, copy) {
  const next = structuredClone(body);
  const fields = next.arguments ?? next;
  if (fields.seed !== undefined) fields.seed = ((fields.seed - 1 + copy) % 1_000_000) + 1;
  return next;
}

/** What a card says of a request. @param {{type: string, body: any}} row */
export function described({ type, body }) {
  const kind = KINDS[type];
  const model = body.model_id?.split("/").slice(1).join(" ") ?? body.model;
  return {
    title: kind?.title ?? type,
    model: kind?.models?.find(([value]) => value === (body.model_id ?? body.model))?.[1] ?? model ?? "",
    text: body.speak?.text ?? body.prompt ?? body.arguments?.prompt ?? (body.product_placement_sample_id ? `Template ${body.product_placement_sample_id}` : ""),
  };
}

/**
 * What went wrong, as a value that a program can branch on.
 *
 * - `FA_SHAPE` sizes or ranks do not fit together
 * - `FA_DTYPE` an element type that is not accepted there, or mixed types
 * - `FA_OPTION` an option that is unknown, or whose value breaks its rule
 * - `FA_TENSOR` something that is not a usable tensor or buffer here (another instance's, detached, resizable)
 * - `FA_DISPOSED` a tensor or an `Attention` used after `dispose()`
 * - `FA_UNSUPPORTED` a correct problem that this back end refuses, with the reason
 * - `FA_UNAVAILABLE` no back end could be opened
 * - `FA_OUT_OF_MEMORY` memory of the host or device ran out; nothing was lost and the next call works
 * - `FA_DEVICE_LOST` the device went away; open a new `Attention`
 * - `FA_BACKEND` the back end itself failed
 */
export type FaErrorCode =
  | "FA_SHAPE"
  | "FA_DTYPE"
  | "FA_OPTION"
  | "FA_TENSOR"
  | "FA_DISPOSED"
  | "FA_UNSUPPORTED"
  | "FA_UNAVAILABLE"
  | "FA_OUT_OF_MEMORY"
  | "FA_DEVICE_LOST"
  | "FA_BACKEND";

/** The one error type of every `@fa/*` package. The message says where, the rule, what came, and what to do. */
export class FaError extends Error {
  override readonly name: string = "FaError";
  readonly code: FaErrorCode;

  constructor(code: FaErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** The four parts of every message: `where: rule; got received. fix`. */
export interface Complaint {
  /** The call and its argument: `attention(k)`. */
  readonly where: string;
  /** What has to hold: `Hkv must divide H`. */
  readonly rule: string;
  /** What came: `Hkv=3, H=8`. */
  readonly got: string;
  /** What to do about it, as a sentence. */
  readonly fix: string;
}

/** Throws the `FaError` that a complaint describes. */
export function refuse(code: FaErrorCode, { where, rule, got, fix }: Complaint): never {
  throw new FaError(code, `${where}: ${rule}; got ${got}. ${fix}`);
}

/** What every back end says of a buffer that is not a live one of its own. */
export function refuseBuffer(backend: string): never {
  refuse("FA_TENSOR", {
    where: backend,
    rule: "a buffer must be a live one of this back end",
    got: "a freed or a foreign one",
    fix: "Allocate it here.",
  });
}

/** What every back end says once it is disposed. */
export function refuseDisposed(backend: string): never {
  const rule = "the back end must be open";
  refuse("FA_DISPOSED", { where: backend, rule, got: "a disposed one", fix: "Open another." });
}

const MAX_SHOWN = 60;

/** A value as it appears in an error message: short, one line, never throwing. */
export function show(value: unknown): string {
  const text = shown(value, 0);
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN - 3)}...` : text;
}

function shown(value: unknown, depth: number): string {
  switch (typeof value) {
    case "string":
      return JSON.stringify(value);
    case "bigint":
      return `${value}n`;
    case "function":
      return "a function";
    case "object":
      try {
        return shownObject(value, depth);
      } catch {
        // A revoked proxy, a view on a detached buffer.
        return "an object that cannot be read";
      }
    default:
      return String(value);
  }
}

function shownObject(value: object | null, depth: number): string {
  if (value === null) return "null";
  if (Array.isArray(value)) {
    if (depth === 2) return "[...]";
    const items = Array.from(value.slice(0, 8), (item) => shown(item, depth + 1));
    return `[${items.join(", ")}${value.length > 8 ? ", ..." : ""}]`;
  }
  const tag = Object.prototype.toString.call(value).slice(8, -1);
  if (ArrayBuffer.isView(value)) return `${tag}(${(value as Uint8Array).length ?? value.byteLength})`;
  if (tag !== "Object") return `${/^[AEIOU]/.test(tag) ? "an" : "a"} ${tag}`;
  const keys = Object.keys(value);
  return `{ ${keys.slice(0, 4).join(", ")}${keys.length > 4 ? ", ..." : ""} }`;
}

/**
 * Rejects names that an options object may not hold, suggesting the nearest one that it may.
 * A misspelt option that is silently ignored computes something else than was asked.
 */
export function checkNames(where: string, options: object, known: readonly string[], what: string = "option"): void {
  for (const name of Object.keys(options)) {
    if (known.includes(name)) continue;
    const near = nearest(name, known);
    refuse("FA_OPTION", {
      where,
      rule: `every ${what} must be a known one`,
      got: `unknown ${what} ${show(name)}`,
      fix: near ? `Did you mean ${show(near)}?` : `Known ${what}s: ${known.join(", ")}.`,
    });
  }
}

/** The known name that is fewest edits away, if it is near enough to be what was meant. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestEdits = Math.max(2, Math.floor(name.length / 2)) + 1;
  for (const candidate of known) {
    const edits = editDistance(name.toLowerCase(), candidate.toLowerCase());
    // As many edits as letters: nothing of the name is left.
    if (edits < bestEdits && edits < Math.max(name.length, candidate.length)) [best, bestEdits] = [candidate, edits];
  }
  return best;
}

/** Levenshtein distance by one rolling row. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length];
}

import type { AttentionProblem } from "./problem.ts";

/**
 * Where measured choices are kept from run to run: `localStorage`, or an object of yours on a file or a database. What is in it
 * may be deleted at any time.
 */
export interface SelectionStore {
  getItem(key: string): string | null | undefined | Promise<string | null | undefined>;
  setItem(key: string, value: string): void | Promise<void>;
}

/** What was measured, candidate by candidate in their order. */
export interface Choice {
  /** When, as `Date.prototype.toISOString` writes it. */
  readonly date: string;
  readonly candidates: readonly { readonly name: string; readonly ms?: number | undefined; readonly reason: string }[];
}

/** Choices of this process, by the keys that a store sees. */
const inMemory = new Map<string, string>();

const KEY_PREFIX = "@fa/core selection 1";

/**
 * What a choice depends on: the candidates with their devices, drivers and versions, the engine that runs them, and the class of the
 * problem, sizes to the next power of two.
 */
export function keyOf(candidates: readonly string[], problem: AttentionProblem): string {
  const { B, H, Hkv, Sq, Skv, D, Dv, dtype, layout, program } = problem;
  const sizes = Object.entries({ B, H, Hkv, Sq, Skv, D, Dv }).map(([name, size]) => `${name}${roundedUp(size)}`);
  const steps = program.map(({ kind }) => kind).join(",");
  return [KEY_PREFIX, engine(), ...candidates, `${sizes.join(" ")} ${dtype} ${layout} ${steps}`].join(" | ");
}

const roundedUp = (size: number): number => (size === 0 ? 0 : 2 ** Math.ceil(Math.log2(size)));

function engine(): string {
  const { process, navigator } = globalThis as { process?: { version?: string }; navigator?: { userAgent?: string } };
  return process?.version ?? navigator?.userAgent ?? "";
}

/** The choice that was made, if what is kept can be read.  */
export async function recall(key: string, store: SelectionStore | undefined): Promise<Choice | undefined> {
  try {
    return parsed(inMemory.get(key) ?? (await store?.getItem(key)));
  } catch {
    return undefined;
  }
}

/** @returns why the store did not take it, if it did not */
export async function remember(
  key: string,
  choice: Choice,
  store: SelectionStore | undefined,
): Promise<string | undefined> {
  const text = JSON.stringify(choice);
  inMemory.set(key, text);
  try {
    await store?.setItem(key, text);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** A store may hold anything by now. */
function parsed(text: string | null | undefined): Choice | undefined {
  if (typeof text !== "string") return undefined;
  const choice = JSON.parse(text) as Partial<Choice> | null;
  const wellFormed =
    typeof choice?.date === "string" &&
    Array.isArray(choice.candidates) &&
    choice.candidates.every(
      (candidate) =>
        typeof candidate?.name === "string" &&
        typeof candidate.reason === "string" &&
        (candidate.ms === undefined || typeof candidate.ms === "number"),
    );
  return wellFormed ? (choice as Choice) : undefined;
}

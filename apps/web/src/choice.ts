/** What of the suite runs, as the page's address names it: `?backends=wasm&capabilities=causal,mask&runs=2`. */
import { isBackend, type BackendId } from "./work/work.ts";

export interface Choice {
  /** All that are there unless given. */
  readonly backends?: readonly BackendId[] | undefined;
  /** All unless given. */
  readonly capabilities?: readonly string[] | undefined;
  /** Random problems a property. */
  readonly runs: number;
}

export const DEFAULT_RUNS = 4;
export const MOST_RUNS = 100;

export function choiceIn(search: string): Choice {
  const query = new URLSearchParams(search);
  const list = (name: string): string[] | undefined => query.get(name)?.split(",").filter(Boolean);
  const runs = Number(query.get("runs"));
  return {
    backends: list("backends")?.filter(isBackend),
    capabilities: list("capabilities"),
    runs: Number.isSafeInteger(runs) && runs >= 1 && runs <= MOST_RUNS ? runs : DEFAULT_RUNS,
  };
}

/** The address of a choice; what is not chosen is not in it. */
export function searchOf({ backends, capabilities, runs }: Choice): string {
  const parts = [
    backends && `backends=${backends.join(",")}`,
    capabilities && `capabilities=${capabilities.map(encodeURIComponent).join(",")}`,
    runs !== DEFAULT_RUNS && `runs=${runs}`,
  ].filter(Boolean);
  return parts.length > 0 ? `?${parts.join("&")}` : "";
}

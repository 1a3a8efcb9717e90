/** Truths of many cases, several at a time, in processes of their own. */
import type { AttentionCase } from "./cases.ts";
import { thisMachine } from "./machine.node.ts";
import { Remote } from "./peers/remote.node.ts";
import { truthFrom, type Truth } from "./truth.ts";

/** Cores that are left to those who wait. */
const LEFT_CORES = 2;
/** Each holds the numbers of a case. */
const MOST_WORKERS = 16;

export interface Truths {
  /** Resolves once all of them are known, so that no case is timed beside them. */
  readonly of: (item: AttentionCase) => Promise<Truth>;
  /** Ends what is still computed. Calling it again does nothing. */
  readonly close: () => Promise<void>;
}

/** Seconds a case; begins at once. */
export function truthsOf(items: readonly AttentionCase[]): Truths {
  const left = [...new Map(items.map((item) => [item.facts.id, item])).values()];
  // The longest first, taken from the end.
  left.sort((a, b) => a.problem.Skv * a.problem.D - b.problem.Skv * b.problem.D);
  const known = new Map<string, Truth>();
  const remotes = new Set<Remote>();
  const close = async (): Promise<void> => {
    await Promise.all([...remotes].map((remote) => remote.close()));
  };
  const work = async (): Promise<void> => {
    const remote = new Remote();
    remotes.add(remote);
    for (let item = left.pop(); item; item = left.pop()) {
      const { id } = item.facts;
      const answer = await remote.ask("answer", item).catch((cause: unknown) => {
        // No contestant's fault.
        throw new Error(`no truth of ${id}: ${(cause as Error).message}`, { cause });
      });
      known.set(id, truthFrom(answer));
    }
    await remote.close();
  };
  const workers = Math.max(1, Math.min(left.length, MOST_WORKERS, thisMachine().cores - LEFT_CORES));
  const all = Promise.all(Array.from({ length: workers }, work));
  // Whoever asks for a truth hears of a failure; who stops before has nothing to hear.
  all.catch(() => {});
  return {
    async of({ facts: { id } }) {
      await all;
      return known.get(id)!;
    },
    close,
  };
}

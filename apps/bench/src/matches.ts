/** Who meets whom on which case. */
import { attentionCase, type AttentionCase } from "./cases.ts";
import type { GaugeName, Match } from "./contest.ts";

/** Contestants by id: the library and its threads. */
export const OURS = { one: "ours/1", two: "ours/2", plain: "ours-plain/1" } as const;
export const PEERS = {
  onnx: "onnxruntime-web/1",
  onnxTwo: "onnxruntime-web/2",
  jax: "jax-js/1",
  tfjs: "tfjs-wasm/1",
} as const;

/** The grid on which libraries are compared: B 1, float32, forward. */
export const GRID = { sizes: [256, 512, 1024, 2048, 4096], heads: 8, dims: [64, 128] } as const;

export interface GridOptions {
  readonly sizes: readonly number[];
  readonly heads: number;
  readonly dims: readonly number[];
  readonly contestants: (dim: number) => readonly string[];
}

/** One match a size, head dim, and causal off and on. */
export function gridMatches({ sizes, heads, dims, contestants }: GridOptions): Match[] {
  return dims.flatMap((D) =>
    sizes.flatMap((S) =>
      [false, true].map((causal) => {
        const item = gridCase(S, D, causal, heads);
        return matchOf(contestants(D).map((contestant) => ({ contestant, item })));
      }),
    ),
  );
}

export function gridCase(S: number, D: number, causal: boolean, H: number = GRID.heads): AttentionCase {
  const kind = causal ? "causal" : "full";
  return attentionCase({
    group: "contest",
    name: `${S}/${D}/${kind}`,
    title: `S ${S}, D ${D}, ${kind}`,
    q: [1, H, S, D],
    options: { causal },
  });
}

/** Every peer on D 64; the fastest of them on every other. */
export function peersOn(dim: number): readonly string[] {
  const both = [OURS.one, OURS.two, PEERS.onnx, PEERS.onnxTwo];
  return dim === 64 ? [...both, PEERS.jax, PEERS.tfjs] : both;
}

/** @param entries the first gives the match its name */
export function matchOf(entries: Match["entries"], gauges: readonly GaugeName[] = ["relaxed"]): Match {
  const { id, title } = entries[0].item.facts;
  return { id, title, entries, gauges };
}

/** Matches of the same name as one, with the entries and gauges of all. */
export function merged(matches: readonly Match[]): Match[] {
  const byId = new Map<string, Match>();
  for (const match of matches) {
    const known = byId.get(match.id);
    if (!known) {
      byId.set(match.id, match);
      continue;
    }
    const isNew = (one: Match["entries"][number]): boolean =>
      !known.entries.some(
        ({ contestant, item }) => contestant === one.contestant && item.facts.id === one.item.facts.id,
      );
    byId.set(match.id, {
      ...known,
      entries: [...known.entries, ...match.entries.filter(isNew)],
      gauges: [...new Set([...known.gauges, ...match.gauges])],
    });
  }
  return [...byId.values()];
}

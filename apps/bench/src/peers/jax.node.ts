import { readFileSync } from "node:fs";
import { findPackageJSON } from "node:module";
import type { numpy } from "@jax-js/jax";
import { checkPeerCase, type Player } from "./player.ts";

/** jax-js's own dot product attention, compiled by its jit. In Node it has no workers, so one thread. */
export async function openJax(): Promise<Player> {
  const { init, defaultDevice, blockUntilReady, jit, nn, numpy: np } = await import("@jax-js/jax");
  if (!(await init("wasm")).includes("wasm")) throw new Error("no wasm device");
  defaultDevice("wasm");
  return {
    what: `${versionOf("@jax-js/jax")}, wasm, nn.dotProductAttention`,
    async place(item, numbers) {
      const data = numbers();
      checkPeerCase(item);
      const { H, Sq, D, causal: isCausal } = item.facts;
      const array = (values: Float64Array) => np.array(swapped(values, H, Sq, D)).reshape([1, Sq, H, D]);
      const [q, k, v] = [array(data.q), array(data.k), array(data.v)] as const;
      const attention = jit((...qkv: [numpy.Array, numpy.Array, numpy.Array]) =>
        nn.dotProductAttention(...qkv, { isCausal }),
      );
      return {
        async call() {
          // An operation uses its operands up: `ref` keeps ours.
          const out = await blockUntilReady(attention(q.ref, k.ref, v.ref));
          return {
            numbers: async () => ({ out: swapped(await out.ref.data(), Sq, H, D) }),
            dispose: () => out.dispose(),
          };
        },
        free() {
          for (const one of [q, k, v]) one.dispose();
          attention.dispose();
        },
      };
    },
  };
}

/** [first, second, D] to [second, first, D]. */
function swapped(values: ArrayLike<number>, first: number, second: number, D: number): Float32Array<ArrayBuffer> {
  const result = new Float32Array(values.length);
  for (let a = 0; a < first; a++) {
    for (let b = 0; b < second; b++) {
      for (let d = 0; d < D; d++) result[(b * first + a) * D + d] = values[(a * second + b) * D + d]!;
    }
  }
  return result;
}

function versionOf(name: string): string {
  const manifest = findPackageJSON(name, import.meta.url);
  return manifest ? (JSON.parse(readFileSync(manifest, "utf8")) as { version: string }).version : "version unknown";
}

import { createRequire } from "node:module";
import { dirname } from "node:path";
import { checkPeerCase, type Player } from "./player.ts";

/**
 * tfjs has no attention: two batched products and a softmax, as its users write it. Its wasm back end computes before
 * it returns, and finds no threads in Node.
 */
export async function openTfjs(): Promise<Player> {
  const tf = await import("@tensorflow/tfjs-core");
  const { setWasmPaths } = await import("@tensorflow/tfjs-backend-wasm");
  const require = createRequire(import.meta.url);
  setWasmPaths(`${dirname(require.resolve("@tensorflow/tfjs-backend-wasm"))}/`);
  if (!(await tf.setBackend("wasm"))) throw new Error("its wasm back end does not start");
  await tf.ready();
  return {
    what: `${tf.version_core}, wasm, matMul, softmax, matMul`,
    async place(item, numbers) {
      const data = numbers();
      checkPeerCase(item);
      const { B, H, Sq, D, causal } = item.facts;
      const tensor = (values: Float64Array) => tf.tensor(Float32Array.from(values), [B, H, Sq, D]);
      const [q, k, v] = [tensor(data.q), tensor(data.k), tensor(data.v)];
      const hidden = causal ? tf.tensor(causalBias(Sq), [Sq, Sq]) : undefined;
      return {
        async call() {
          const out = tf.tidy(() => {
            const scores = tf.mul(tf.matMul(q, k, false, true), 1 / Math.sqrt(D));
            return tf.matMul(tf.softmax(hidden ? tf.add(scores, hidden) : scores), v);
          });
          return { numbers: async () => ({ out: (await out.data()) as Float32Array }), dispose: () => out.dispose() };
        },
        free: () => tf.dispose([q, k, v, ...(hidden ? [hidden] : [])]),
      };
    },
  };
}

/** [S, S]: 0 where row i sees key j, and else what no score outweighs. */
function causalBias(S: number): Float32Array {
  const bias = new Float32Array(S * S);
  for (let i = 0; i < S; i++) bias.fill(-1e30, i * S + i + 1, (i + 1) * S);
  return bias;
}

import { checkPeerCase, type Player, type PlayerSpec } from "./player.ts";
import { onnxModel } from "./onnx.ts";

/**
 * ONNX's Attention of opset 23 on onnxruntime-web's wasm execution provider: faster there than com.microsoft's
 * MultiHeadAttention at every size that was tried. Its API takes inputs from JavaScript and gives outputs back to it on
 * every call.
 */
export async function openOnnxruntime({ threads }: PlayerSpec): Promise<Player> {
  const ort = await import("onnxruntime-web");
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  return {
    what: `${ort.env.versions.web ?? "version unknown"}, wasm, Attention of opset 23`,
    async place(item, numbers) {
      const data = numbers();
      checkPeerCase(item);
      const { B, H, Sq, D, causal } = item.facts;
      const shape = [B, H, Sq, D];
      const model = onnxModel({
        operator: "Attention",
        domain: "",
        opset: 23,
        attributes: { is_causal: Number(causal) },
        inputs: { q: shape, k: shape, v: shape },
        outputs: { out: shape },
      });
      const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
      const tensor = (values: Float64Array) => new ort.Tensor("float32", Float32Array.from(values), shape);
      const feeds = { q: tensor(data.q), k: tensor(data.k), v: tensor(data.v) };
      return {
        async call() {
          const { out } = await session.run(feeds).catch((error: unknown) => {
            throw new Error(reasonOf(String(error)), { cause: error });
          });
          return { numbers: async () => ({ out: out.data as Float32Array }), dispose: () => out.dispose() };
        },
        free: () => session.release(),
      };
    },
  };
}

/** "SafeIntOnOverflow: Integer overflow" of a message with a path of the machine that built it and a C++ signature. */
function reasonOf(message: string): string {
  const [, name, rest] = /::(\w+)\(\)\s*(.*)$/s.exec(message) ?? [];
  return name === undefined ? message : `${name}: ${rest.trim()}`;
}

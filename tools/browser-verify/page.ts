// Runs the suite on the browser's WebGPU, and posts each result and at last who ran it.

import { conformance, type CheckResult } from "@fa/conformance";
import { webgpu } from "@fa/backend-webgpu";

/** What the page posts. */
export type Message =
  | { readonly kind: "result"; readonly result: CheckResult }
  | { readonly kind: "end"; readonly device: string; readonly agent: string; readonly reason?: string };

/** In order, however long one takes. */
let posted = Promise.resolve();
function post(message: Message): void {
  posted = posted.then(async () => void (await fetch("/message", { method: "POST", body: JSON.stringify(message) })));
}

const asked = new URLSearchParams(location.search);
const agent = navigator.userAgent;
try {
  const { device } = await conformance(webgpu({ software: asked.has("software") }), {
    only: asked.get("only") ?? undefined,
    capabilities: asked.get("capability")?.split(","),
    runs: Number(asked.get("runs")),
    onResult: (result) => post({ kind: "result", result }),
  });
  post({ kind: "end", device, agent });
} catch (error) {
  post({ kind: "end", device: "did not open", agent, reason: String(error) });
}

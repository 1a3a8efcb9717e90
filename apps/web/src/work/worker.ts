/** All that computes runs here, away from the page. One worker does one piece of work. */
import { createAttention, FaError } from "@fa/core";
import { askedCases, bench, goldenModule, moduleCases, sweepCases, tutorialCases, type Case } from "@fa/bench";
import { conformanceChecks, GOLDEN, runCheck, Subject } from "@fa/conformance";
import { lookAround } from "./abilities.ts";
import { stationOf } from "./station.ts";
import {
  BACKENDS,
  type BackendId,
  type BackendState,
  type BenchPlan,
  type Kind,
  type ToWorker,
  type Work,
} from "./work.ts";

type Doing<K extends Kind> = (ask: Work[K]["ask"], tell: (told: Work[K]["tell"]) => void) => Promise<void>;

const DOING: { readonly [K in Kind]: Doing<K> } = {
  async look(_, tell) {
    const backends = await findBackends();
    const isSoftware = backends.some(({ id }) => id === "webgpu-software");
    tell({ abilities: await lookAround({ isSoftware }), backends });
  },

  async capabilities(_, tell) {
    const checks = await conformanceChecks();
    const groups = Map.groupBy(checks, ({ capability }) => capability);
    tell([...groups].map(([capability, members]) => [capability, members.length] as const));
  },

  async suite({ backend, capabilities, runs }, tell) {
    const checks = await conformanceChecks({ capabilities, runs });
    await using fa = await createAttention({ backends: [stationOf(backend).provider] });
    tell({ kind: "begun", device: fa.backend.device, total: checks.length });
    const subject = new Subject(fa);
    for (const check of checks) tell({ kind: "result", result: await runCheck(subject, check) });
  },

  async bench({ backend, plan }, tell) {
    const cases = await casesOf(plan);
    const { provider, timer, bandwidth } = stationOf(backend);
    const open = () => createAttention({ backends: [provider] });
    const look = async () => {
      await using fa = await open();
      const { name, device } = fa.backend;
      const { identity } = await provider.probe();
      const facts = { backend: { name, device, identity }, candidates: fa.report };
      return { ...facts, roof: await fa.roof(), bandwidth: await bandwidth() };
    };
    tell({ kind: "begun", run: await look(), titles: cases.map(({ facts }) => facts.title) });
    const { signal } = new AbortController();
    const settings = { open, deviceTimer: timer, budgetMs: plan.budgetMs, sampleMs: plan.quick ? 40 : 600, signal };
    for await (const outcome of bench(cases, settings)) tell({ kind: "outcome", outcome });
    try {
      const { roof, bandwidth: rate } = await look();
      tell({ kind: "again", roof, bandwidth: rate });
    } catch (error) {
      // What does not open any more leaves what was measured before.
      if (!(error instanceof FaError)) throw error;
    }
  },
};

/** A software adapter is worth telling apart: it works, but slowly. It is named only where it is all there is. */
async function findBackends(): Promise<BackendState[]> {
  const states: BackendState[] = [];
  for (const id of Object.keys(BACKENDS) as BackendId[]) {
    const { ok, reason = "", device = "" } = await stationOf(id).provider.probe();
    if (id !== "webgpu-software") states.push({ id, ok, reason, device });
    else if (ok && !states.some((state) => state.id === "webgpu" && state.ok))
      states.push({ id, ok, reason: `${reason}; slow: for checks, not for speed`, device });
  }
  return states;
}

/** @throws FaError for sizes that attention refuses */
async function casesOf({ parts, sizes, heads, dim, dtype, quick }: BenchPlan): Promise<Case[]> {
  const cases: Case[] = [];
  if (parts.includes("tutorial")) cases.push(...tutorialCases());
  if (parts.includes("module")) cases.push(...moduleCases(await golden(quick ? "module" : "big")));
  if (parts.includes("sweep")) cases.push(...sweepCases({ sizes, heads, dim, dtype }));
  for (const pass of ["backward", "decode"] as const) {
    if (!parts.includes(pass)) continue;
    cases.push(...askedCases({ passes: [pass], dtypes: [dtype], sizes, batch: 1, heads, dim }));
  }
  return cases;
}

async function golden(name: string) {
  const [json, data] = await Promise.all(
    ["mha.json", "mha.safetensors"].map(async (file) => {
      const response = await fetch(new URL(file, GOLDEN));
      if (!response.ok) throw new FaError("FA_UNAVAILABLE", `${file}: ${response.status} ${response.statusText}`);
      return new Uint8Array(await response.arrayBuffer());
    }),
  );
  return goldenModule({ json, data }, name);
}

addEventListener("message", ({ data: { kind, ask } }: MessageEvent<ToWorker>) => {
  const doing = DOING[kind] as Doing<Kind>;
  const tell = (told: unknown): void => postMessage({ kind: "tell", tell: told });
  doing(ask, tell).then(
    () => postMessage({ kind: "end" }),
    (error: unknown) => postMessage({ kind: "error", message: error instanceof Error ? error.message : String(error) }),
  );
});

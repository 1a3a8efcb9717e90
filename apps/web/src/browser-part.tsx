import type { VNode } from "preact";
import { Scrolls } from "./controls.tsx";
import { BACKENDS, type Work } from "./work/work.ts";
import type { Ability, Gpu } from "./work/abilities.ts";

const STATES: Readonly<Record<Ability["state"], string>> = { yes: "yes", partly: "partly", no: "missing" };

/** What this browser can do; `seen` is undefined until it has been looked at. */
export function BrowserPart({ seen }: { readonly seen: Work["look"]["tell"] | Error | undefined }): VNode {
  return (
    <section id="browser" aria-labelledby="browser-title" aria-busy={seen === undefined}>
      <h2 id="browser-title">What this browser can do</h2>
      <p role="status" class={seen instanceof Error ? "trouble" : "quiet"}>
        {seen === undefined && "Looking around..."}
        {seen instanceof Error &&
          `The page could not start its worker: ${seen.message}. Try another browser, or reload.`}
        {seen && !(seen instanceof Error) && summary(seen)}
      </p>
      {seen && !(seen instanceof Error) && (
        <>
          <dl class="abilities">
            {seen.abilities.list.map((ability) => (
              <div key={ability.title}>
                <dt>
                  {ability.title} <span class={`state ${ability.state}`}>{STATES[ability.state]}</span>
                </dt>
                <dd>
                  {ability.what}
                  {ability.fix && <span class="fix"> {ability.fix}</span>}
                </dd>
              </div>
            ))}
          </dl>
          {seen.abilities.gpu && <GpuFacts gpu={seen.abilities.gpu} />}
          <h3>Back ends</h3>
          <dl class="abilities">
            {seen.backends.map(({ id, ok, reason, device }) => (
              <div key={id}>
                <dt>
                  {BACKENDS[id]} <span class={`state ${ok ? "yes" : "no"}`}>{ok ? "works" : "does not work"}</span>
                </dt>
                <dd>{[device, reason].filter(Boolean).join("; ") || "always there"}</dd>
              </div>
            ))}
          </dl>
        </>
      )}
    </section>
  );
}

function summary({ backends }: Work["look"]["tell"]): string {
  const works = backends.filter(({ ok }) => ok).map(({ id }) => BACKENDS[id]);
  return `Back ends that work here: ${works.join(", ")}.`;
}

function GpuFacts({ gpu }: { readonly gpu: Gpu }) {
  return (
    <details>
      <summary>Features and limits of the GPU</summary>
      <Scrolls label="Features of the GPU">
        <table>
          <thead>
            <tr>
              <th scope="col">feature</th>
              <th scope="col">here</th>
              <th scope="col">what for</th>
            </tr>
          </thead>
          <tbody>
            {gpu.features.map(({ name, there, what }) => (
              <tr key={name}>
                <th scope="row">{name}</th>
                <td>{there ? "yes" : "no"}</td>
                <td>{what}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scrolls>
      <Scrolls label="Limits of the GPU">
        <table class="numbers">
          <thead>
            <tr>
              <th scope="col">limit</th>
              <th scope="col">here</th>
              <th scope="col">everywhere</th>
            </tr>
          </thead>
          <tbody>
            {gpu.limits.map(({ name, value, least }) => (
              <tr key={name}>
                <th scope="row">{name}</th>
                <td>{value.toLocaleString("en")}</td>
                <td>{least.toLocaleString("en")}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scrolls>
    </details>
  );
}

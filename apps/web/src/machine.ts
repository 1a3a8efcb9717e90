/** What a results file says of the machine, as far as a browser tells. */
import type { Machine } from "@fa/bench";

interface BrandedNavigator {
  readonly userAgent: string;
  readonly hardwareConcurrency?: number;
  readonly userAgentData?: {
    readonly platform: string;
    readonly brands: readonly { readonly brand: string; readonly version: string }[];
  };
}

/** @param name what people call it; made from browser and platform unless given */
export function thisMachine(name: string, from: BrandedNavigator = navigator): Machine {
  const cores = from.hardwareConcurrency ?? 1;
  const runtime = browserOf(from);
  const platform = from.userAgentData?.platform || platformOf(from.userAgent);
  return {
    name: name || `${runtime} on ${platform}, ${cores} ${cores === 1 ? "core" : "cores"}`,
    cpu: "not told by browsers",
    cores,
    platform,
    runtime,
  };
}

/** Placeholders that browsers put among their brands: "Not;A=Brand". */
const PLACEHOLDER = /not.?a.?brand/i;

function browserOf({ userAgent, userAgentData }: BrandedNavigator): string {
  const brands = userAgentData?.brands.filter(({ brand }) => !PLACEHOLDER.test(brand)) ?? [];
  const own = brands.find(({ brand }) => brand !== "Chromium") ?? brands[0];
  if (own) return `${own.brand} ${own.version}`;
  const [, name, version] =
    /(Firefox|Edg|Chrome)\/([\d.]+)/.exec(userAgent) ?? /(Version)\/([\d.]+).*Safari/.exec(userAgent) ?? [];
  return name ? `${name === "Version" ? "Safari" : name === "Edg" ? "Edge" : name} ${version}` : "an unknown browser";
}

function platformOf(userAgent: string): string {
  const [name] = /Android|iPhone|iPad|Windows|Mac OS X|Linux/.exec(userAgent) ?? [];
  return name ?? "an unknown system";
}

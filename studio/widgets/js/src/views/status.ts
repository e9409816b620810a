import { h, setText, show } from "../dom";
import { figure } from "../grid";
import type { Store } from "../store";

/** The numbers, calm: twice a second, each with its unit. */
export class StatusView {
  readonly element: HTMLElement;
  private readonly figures: Record<string, HTMLElement> = {};
  private readonly switched: HTMLElement;

  constructor(private readonly store: Store) {
    const value = (name: string) => (this.figures[name] = h("b", {}, "–"));
    const word = (name: string) => (this.figures[name] = h("span", {}, "–"));
    this.switched = h(
      "span", { hidden: true, title: "The last switch: frame shown when it was asked for, first frame under the new prompt, seconds until that was generated" },
      "switch at frame ", value("asked"), " → ", value("force"), value("late"),
    );
    this.element = h(
      "footer", { class: "ls-status ls-num", "aria-label": "Speed" },
      h("span", { title: "Frames a second that the model generates while it is at work" }, "generated ", value("generated"), " frames/s"),
      h("span", { title: "Frames a second on this screen" }, "played ", value("played"), " frames/s"),
      h("span", { title: "Seconds of video generated ahead of what is shown" }, "ahead ", value("ahead"), " s"),
      h(
        "span", { title: "Time a block takes: denoising steps, the clean pass that stores it, decoding to pixels" },
        "denoise ", value("denoise"), " · commit ", value("commit"), " · VAE ", value("vae"), " ms a block",
      ),
      h("span", {}, word("name"), " · ", word("device")),
      this.switched,
    );
  }

  update(): void {
    const { stats, hello, playback } = this.store;
    const set = (name: string, text: string) => setText(this.figures[name] as HTMLElement, text);
    set("generated", figure(stats?.generated_fps));
    set("played", figure(playback.running && !playback.starved ? playback.rate(performance.now()) : null));
    set("ahead", figure(this.ahead()));
    set("denoise", whole(stats?.denoise_ms));
    set("commit", whole(stats?.commit_ms));
    set("vae", whole(stats?.vae_ms));
    set("name", hello?.name ?? "–");
    set("device", stats?.device ?? "–");
    const last = this.store.switches.findLast((item) => item.effective_frame <= this.store.film.end);
    show(this.switched, last !== undefined);
    if (last === undefined) return;
    set("asked", String(last.requested_frame));
    set("force", String(last.effective_frame));
    set("late", last.latency_s === null ? "" : ` · ${last.latency_s.toFixed(2)} s`);
  }

  private ahead(): number | null {
    const { film, playhead, grid } = this.store;
    return film.size === 0 ? null : Math.max(0, grid.seconds(film.end - 1 - playhead));
  }
}

function whole(value: number | null | undefined): string {
  return value === null || value === undefined ? "–" : value.toFixed(0);
}

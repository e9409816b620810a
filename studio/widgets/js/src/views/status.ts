import { h, setText, show } from "../dom";
import { figure } from "../grid";
import type { Store } from "../store";

/** The numbers, calm: twice a second, each with its unit. */
export class StatusView {
  readonly element: HTMLElement;
  private readonly figures: Record<string, HTMLElement> = {};
  private readonly switched: HTMLElement;
  private readonly link: HTMLElement;

  constructor(private readonly store: Store) {
    const value = (name: string) => (this.figures[name] = h("b", {}, "–"));
    const word = (name: string) => (this.figures[name] = h("span", {}, "–"));
    this.link = h(
      "span", { hidden: true, title: "The link is slower than the video: pictures are sent in a lower quality for now; nothing else changes" },
      "slow link, picture quality ", value("quality"),
    );
    this.switched = h(
      "span", { hidden: true, title: "The last switch: first frame under the new prompt; of one asked for while playing also the frame shown then, and seconds until the first was generated" },
      "switch at frame ", value("asked"), value("force"), value("late"),
    );
    this.element = h(
      "footer", { class: "ls-status ls-num", "aria-label": "Speed" },
      h("span", { title: "Frames a second that the model generates while it is at work" }, "generated ", value("generated"), " frames/s"),
      h("span", { title: "Frames a second shown, by the reports that reach the session and by its clock" }, "played ", value("played"), " frames/s"),
      h("span", { title: "Seconds until the block under way is expected" }, "next in ", value("next"), " s"),
      h("span", { title: "Seconds of video generated ahead of what is shown" }, "ahead ", value("ahead"), " s"),
      h(
        "span", { title: "Time a block takes: denoising steps, the clean pass that stores it, decoding to pixels" },
        "denoise ", value("denoise"), " · commit ", value("commit"), " · VAE ", value("vae"), " ms a block",
      ),
      this.switched,
      this.link,
      h("span", { title: "Frames that were gone past without being shown, because the page or the link was too slow" }, "dropped ", value("dropped")),
      h("span", { title: "Model, what computes, and what it is doing" }, word("name"), " · ", word("device"), word("busy")),
    );
  }

  update(): void {
    const { stats, hello } = this.store;
    const set = (name: string, text: string) => setText(this.figures[name] as HTMLElement, text);
    set("generated", figure(stats?.generated_fps));
    set("played", figure(stats?.played_fps));
    set("next", seconds(stats?.next_frame_s));
    set("ahead", seconds(stats?.lead_s));
    set("dropped", String(stats?.dropped_frames ?? 0));
    set("busy", stats?.device_state ? ` · ${stats.device_state}` : "");
    set("denoise", whole(stats?.denoise_ms));
    set("commit", whole(stats?.commit_ms));
    set("vae", whole(stats?.vae_ms));
    set("name", hello?.name ?? "–");
    set("device", stats?.device ?? "–");
    show(this.link, this.store.reduced !== null);
    set("quality", String(this.store.reduced ?? ""));
    const last = this.store.switches.findLast((item) => item.effective_frame <= this.store.film.end);
    show(this.switched, last !== undefined);
    if (last === undefined) return;
    // One that stood in the timeline was waited for by nobody.
    const waited = last.latency_s;
    set("asked", waited === null ? "" : `${last.requested_frame} → `);
    set("force", String(last.effective_frame));
    set("late", waited === null ? "" : ` · ${waited.toFixed(2)} s`);
  }
}

/** Tenths of seconds: more would only flicker. */
function seconds(value: number | null | undefined): string {
  return value === null || value === undefined ? "–" : value.toFixed(1);
}

function whole(value: number | null | undefined): string {
  return value === null || value === undefined ? "–" : value.toFixed(0);
}

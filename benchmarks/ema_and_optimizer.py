"""What follows a backward pass, clipping, AdamW and the teacher's average, as a share of the whole step."""

import torch
from common import DTYPES, SIZES, measure, model_config, parser, report
from training import Training

from EAT.host_memory import keep_freed_memory
from EAT.optim.adamw import clip_gradients


def main() -> None:
    made = parser(__doc__, repeats=5)
    made.add_argument("--size", choices=SIZES, default="base")
    made.add_argument("--clips", type=int, default=2)
    made.add_argument("--precision", choices=DTYPES, nargs="+", default=list(DTYPES))
    made.add_argument("--device", default="cpu")
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    device = torch.device(options.device)
    results = []
    for precision in options.precision:
        training = Training(model_config(options.size), device, DTYPES[precision])
        filterbank = torch.randn(options.clips, 1, 1024, 128, device=device)
        clips = list(range(options.clips))

        def timed(name, call, repeats, options=options, precision=precision):
            made = measure(f"{name}, {precision}", call, options.clips, device, repeats=repeats)
            results.append(made)
            return made

        gradients = timed("forward and backward", lambda t=training, f=filterbank, c=clips: t.forward_backward(f, c), 2)
        rest = timed("clipping, AdamW and average", training.update, options.repeats)
        rest.more["share_of_step"] = rest.ms_per_clip / (rest.ms_per_clip + gradients.ms_per_clip)
        grads = [master.grad for master in training.masters]
        timed("of it: clipping", lambda grads=grads: clip_gradients(grads, 4.0), options.repeats)
        timed("of it: AdamW", training.optimizer.step, options.repeats)
        masters = dict(zip(training.names, training.masters, strict=True)) if training.half else None
        timed("of it: average", lambda t=training, m=masters: t.model.update_teacher(1, m), options.repeats)
        del training
    report("ema_and_optimizer", results, options, device)


if __name__ == "__main__":
    main()

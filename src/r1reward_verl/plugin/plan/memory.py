"""Arithmetic of GPU memory: a model's shape and a run's settings to bytes of each GPU, by part and phase.

Sources are verl 0.9.1 (`workers/engine/fsdp/transformer_impl.py` and `utils/fsdp_utils.py` for training,
`utils/torch_functional.py` for the loss, `workers/engine_workers.py` for the order of phases) and the models of
transformers 5.9. The tests measure parameters and activations on shapes of full width, on tensors without data.
A GB is 1e9 bytes, and a GPU "of 80 GB" has 5 to 7% more than 80e9: that difference is what the allocator wastes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from r1reward_verl.plugin.plan.shapes import Shape

GB = 1e9
# A CUDA context, NCCL's buffers and captured graphs of one process; assumed, not measured.
PROCESS_BYTES = GB
# `FusedLinearForPPO` (verl/utils/experimental/torch_functional.py) computes logits of so many tokens at a time.
FUSED_CHUNK = 512

WEIGHTS, GRADIENTS, MOMENTS, GATHERED = "weights", "gradients", "Adam moments", "gathered weights"
LANGUAGE, VISION, LOGITS = "language activations", "vision activations", "logits and entropy"
VLLM_WEIGHTS, VLLM_CACHE, BUCKET, JUDGE, PROCESSES = "vLLM weights", "vLLM cache", "weight bucket", "judge", "processes"
PARTS = (
    *(WEIGHTS, GRADIENTS, MOMENTS, GATHERED, LANGUAGE, VISION, LOGITS),
    *(VLLM_WEIGHTS, VLLM_CACHE, BUCKET, JUDGE, PROCESSES),
)
ROLLOUT, SYNC, JUDGING, LOG_PROBS = "rollout", "sync", "judge", "log-probs"
LOSS, BACKWARD, STEP = "loss", "backward", "Adam"


@dataclass(frozen=True)
class Engine:
    """A vLLM engine on the training GPUs: the rollout's or the judge's.

    Attributes:
        utilization: share of a GPU that it takes.
        max_length: longest sequence, in tokens; vLLM does not start where its cache holds less.
        sleeps: gives weights and cache back while others work (`free_cache_engine`).
    """

    shape: Shape
    utilization: float
    tensor_parallel: int
    max_length: int
    batched_tokens: int
    sequences: int
    sleeps: bool

    @property
    def weights(self) -> float:
        """Bytes of its bf16 weights on each GPU."""
        return 2 * self.shape.parameters / self.tensor_parallel

    @property
    def bytes_per_token(self) -> float:
        """Bytes of a cached token on each GPU: bf16 keys and values; a key-value head is not split."""
        heads = max(1, self.shape.kv_heads / self.tensor_parallel)
        return 2 * 2 * self.shape.layers * heads * self.shape.head_size

    @property
    def working(self) -> float:
        """Bytes that vLLM keeps free for one step, about: MLP and residual stream, and float32 logits twice."""
        widths = 3 * self.shape.intermediate / self.tensor_parallel + 4 * self.shape.hidden
        return 2 * self.batched_tokens * widths + self.sequences * self.shape.vocabulary * 8 + PROCESS_BYTES


@dataclass(frozen=True)
class Setup:
    """What the arithmetic takes from a composed config and the hardware.

    Attributes:
        gpu_bytes: memory of a GPU.
        shards: GPUs that share one copy of weights and optimizer (`fsdp_size`, or all).
        trainable: parameters with gradients: all, or LoRA's.
        frozen: the others.
        tokens: of a micro-batch in training on one GPU; `log_prob_tokens` in the pass for old log-probabilities.
        sequence_parallel: GPUs that share one sequence (Ulysses); the vision tower sees all of it on each.
        picture_share: the largest share of tokens that come from pictures.
        master_bytes, compute_bytes, reduce_bytes: of a number in the sharded, gathered and reduced weights.
        checkpointing: activations are kept at the layers' ends only.
        activation_offload: those are moved to the machine's memory.
        offload_policy: FSDP2 keeps shards in the machine's memory and runs Adam there.
        flash: flash-attention is used, and its cross entropy.
        entropy_in_loss: the loss asks for entropy, which then has gradients.
        entropy_chunk: tokens of a chunk of the entropy; None takes all at once.
        compiled: the entropy is compiled, so that it writes one float32 copy of the logits, else two.
        scaled: a temperature other than 1 makes a second copy of the logits.
        bucket: bytes of a bucket on the way to vLLM.
        judge: a judge on the training GPUs, if there is one.
    """

    shape: Shape
    nodes: int
    gpus_per_node: int
    gpu_bytes: float
    shards: int
    trainable: int
    frozen: int
    tokens: int
    log_prob_tokens: int
    sequence_parallel: int
    picture_share: float
    master_bytes: int
    compute_bytes: int
    reduce_bytes: int
    checkpointing: bool
    activation_offload: bool
    offload_policy: bool
    param_offload: bool
    optimizer_offload: bool
    flash: bool
    fused: bool
    entropy_in_loss: bool
    entropy_chunk: int | None
    compiled: bool
    scaled: bool
    bucket: float
    rollout: Engine
    judge: Engine | None

    # -----------------------------------------------------------------------------
    # Training state: float32 master weights, gradients and two Adam moments, sharded by FSDP2
    # -----------------------------------------------------------------------------

    @property
    def weights(self) -> float:
        """Sharded weights, in `fsdp_config.model_dtype`, frozen ones too."""
        return self.master_bytes * (self.trainable + self.frozen) / self.shards

    @property
    def gradients(self) -> float:
        """Sharded gradients: of the weights' own type, whatever FSDP2 computed and reduced them in."""
        return self.master_bytes * self.trainable / self.shards

    @property
    def moments(self) -> float:
        """Both moments of Adam, of the weights' type."""
        return 2 * self.gradients

    @property
    def host_bytes(self) -> float:
        """Bytes in the memory of each machine, where state is offloaded."""
        each = 0.0
        if self.offload_policy:
            each = self.weights + self.gradients + self.moments
        elif self.param_offload or self.optimizer_offload:
            each = self.weights * self.param_offload + self.moments * self.optimizer_offload
        if self.activation_offload:
            each += self._checkpoints(self.tokens)
        return each * self.gpus_per_node

    # -----------------------------------------------------------------------------
    # Activations, in bytes
    # -----------------------------------------------------------------------------

    def _checkpoints(self, tokens: int) -> float:
        """The residual stream at the start of each decoder layer."""
        return tokens * self.shape.layers * self.shape.hidden * self.compute_bytes

    def _ends(self, tokens: int) -> float:
        """The embedded input, the final norm (a float32 copy for its gradient) and its result."""
        return tokens * self.shape.hidden * (4 + 3 * self.compute_bytes)

    def _kept(self, tokens: int) -> float:
        """What one decoder layer keeps for its backward pass.

        Two RMS norms (a float32 copy, the normed and the scaled result each), q, k, v and the attention's result, and
        four tensors of the MLP's width.
        """
        shape, size = self.shape, self.compute_bytes
        attention = (2 * shape.queries + 2 * shape.keys) * size
        if not self.flash:
            attention += 2 * shape.queries * size  # keys and values are repeated for each head
        return tokens * (2 * shape.hidden * (4 + 2 * size) + attention + 4 * shape.intermediate * size)

    def _mask(self, tokens: int) -> float:
        """Which token sees which, of packed sequences: bool, and as numbers. flash-attention needs none."""
        return 0.0 if self.flash else tokens**2 * (1 + self.compute_bytes)

    def _forward(self, tokens: int) -> float:
        """Language activations when the forward pass has ended."""
        kept = self._checkpoints(tokens) if self.checkpointing else self.shape.layers * self._kept(tokens)
        if self.checkpointing and self.activation_offload:
            kept = 2 * kept / self.shape.layers
        return kept + self._ends(tokens) + self._mask(tokens)

    def _backward(self, tokens: int) -> float:
        """Language activations in the backward pass of the last layer, which is computed again first.

        The peak is in its MLP, where the gradients of two of the four wide tensors stand beside them.
        """
        again = self._kept(tokens) if self.checkpointing else 0.0
        gradients = tokens * self.compute_bytes * (2 * self.shape.intermediate + 2 * self.shape.hidden)
        return self._forward(tokens) - self._ends(tokens) + again + gradients

    def _vision(self, tokens: int, last: bool = False) -> float:
        """Vision activations; with `last`, in the backward pass of its last block, when the decoder's are gone."""
        vision = self.shape.vision
        if vision is None:
            return 0.0
        patches = tokens * self.sequence_parallel * self.picture_share * vision.merge**2
        size, hidden = self.compute_bytes, vision.hidden
        pixels = vision.patch_values * (4 + size)  # float32 as they come, and as they are embedded
        wide = (4 if vision.gated else 2) * vision.intermediate * size
        # As a decoder layer; queries and keys also as they are rotated.
        kept = hidden * (2 * (4 + 2 * size) + 5 * size) + wide
        each = (vision.depth + 1) * hidden * size if self.checkpointing else vision.depth * kept
        if last:
            each += (kept if self.checkpointing else 0) + (2 * vision.intermediate + 4 * hidden) * size
        return patches * (pixels + each)

    # -----------------------------------------------------------------------------
    # Logits
    # -----------------------------------------------------------------------------

    def _inferred_logits(self, tokens: int) -> float:
        """Logits of the pass for old log-probabilities, which always computes the entropy, without gradients."""
        words = self.shape.vocabulary
        if self.fused:
            return min(tokens, FUSED_CHUNK) * words * (self.compute_bytes + 3 * 4)
        logits = tokens * words * self.compute_bytes * (2 if self.scaled else 1)
        if self.entropy_chunk:
            return logits + min(tokens, self.entropy_chunk) * words * 3 * 4
        return logits + tokens * words * 4 * (1 if self.compiled else 2)

    def _trained_logits(self, tokens: int) -> float:
        """Logits of the loss, and their gradients.

        flash-attention's cross entropy writes the gradients over the logits, unless entropy needs them too; without
        it, each row keeps float32 log-probabilities, and the rows' gradients are stacked into one tensor.
        """
        words, size = self.shape.vocabulary, self.compute_bytes
        if self.fused:
            return min(tokens, FUSED_CHUNK) * words * (size + 5 * 4)
        each = size * (2 if self.scaled else 1)
        if not self.flash:
            each += 4 + 2 * size
        elif self.entropy_in_loss:
            each += size
        if self.entropy_in_loss:
            each += 2 * 4
        return tokens * words * each

    # -----------------------------------------------------------------------------
    # Whole weights that FSDP2 gathers
    # -----------------------------------------------------------------------------

    def _gathered(self, weights: int, trained: bool, beside: int = 0) -> float:
        """A group of weights, with its whole gradients and their copy to reduce, beside other gathered weights."""
        gradients = self.compute_bytes + self.reduce_bytes if trained else 0
        return weights * (self.compute_bytes + gradients) + beside * self.compute_bytes


def plan_memory(setup: Setup) -> dict[str, dict[str, float]]:
    """Return the bytes of each part on each GPU, by phase; a phase has only the parts that it needs.

    Phases are those of a step, in verl's order: `rollout`, `judge` (one on the training GPUs), `log-probs` (the old
    ones), `loss`, `backward` and `Adam` of the update, and `sync` of the weights to vLLM.
    """
    shape, rollout, judge = setup.shape, setup.rollout, setup.judge
    resident = 0 if setup.offload_policy else 1
    weights, moments = resident * setup.weights, resident * setup.moments
    idle = {
        WEIGHTS: 0 if setup.param_offload else weights,
        MOMENTS: 0 if setup.optimizer_offload else moments,
        PROCESSES: PROCESS_BYTES * (2 if judge is None else 3),
    }
    training = {**idle, WEIGHTS: weights}
    updating = {**training, MOMENTS: moments, GRADIENTS: resident * setup.gradients}
    table, layer = shape.table_parameters, shape.layer_parameters
    tied = table if shape.tied else 0  # in the root's group, which FSDP2 keeps gathered
    full = setup.frozen == 0
    tokens, inferred = setup.tokens, setup.log_prob_tokens

    phases: dict[str, dict[str, float]] = {ROLLOUT: {**idle, **_awake(rollout, setup.gpu_bytes)}}
    if judge is not None:
        phases[JUDGING] = {**idle, JUDGE: judge.utilization * setup.gpu_bytes}
    phases[LOG_PROBS] = {
        **training,
        GATHERED: setup._gathered(table, trained=False, beside=layer),
        LANGUAGE: setup._ends(inferred) + setup._mask(inferred),
        LOGITS: setup._inferred_logits(inferred),
    }
    vision = setup._vision(tokens)
    phases[LOSS] = {
        **updating,
        GATHERED: setup._gathered(table, trained=full, beside=layer),
        LANGUAGE: setup._forward(tokens),
        VISION: vision,
        LOGITS: setup._trained_logits(tokens),
    }
    # The layer before is gathered ahead.
    gathered = setup._gathered(layer, trained=full, beside=layer + tied * (2 if full else 1))
    decoder = {LANGUAGE: setup._backward(tokens), VISION: vision}
    tower = {VISION: setup._vision(tokens, last=True)}
    larger = max(decoder, tower, key=lambda parts: sum(parts.values()))
    phases[BACKWARD] = {**updating, GATHERED: gathered, **larger}
    if not setup.offload_policy:
        # torch's foreach AdamW takes the root of the second moments in a tensor of their size.
        phases[STEP] = {**updating, MOMENTS: 1.5 * setup.moments}
    phases[SYNC] = {
        **idle,
        VLLM_WEIGHTS: rollout.weights,
        # Each weight is gathered whole, in the type of the shards, and copied into a bucket.
        GATHERED: max(table, layer // 3) * setup.master_bytes,
        BUCKET: setup.bucket,
    }
    _stay(phases, setup)
    return phases


def _awake(engine: Engine, gpu_bytes: float) -> dict[str, float]:
    """Return what a vLLM engine takes when awake: a fixed share, whatever its weights leave of it being cache."""
    taken = engine.utilization * gpu_bytes
    return {VLLM_WEIGHTS: engine.weights, VLLM_CACHE: max(0.0, taken - engine.weights)}


def _stay(phases: Mapping[str, dict[str, float]], setup: Setup) -> None:
    """Add the engines that do not sleep to the phases of the others."""
    for phase, parts in phases.items():
        if not setup.rollout.sleeps and phase != ROLLOUT:
            parts.update(_awake(setup.rollout, setup.gpu_bytes))
        if setup.judge is not None and not setup.judge.sleeps and phase != JUDGING:
            parts[JUDGE] = setup.judge.utilization * setup.gpu_bytes


def cached_tokens(engine: Engine, gpu_bytes: float) -> int:
    """Return the tokens that an engine's cache holds, 0 where its weights leave no room."""
    room = engine.utilization * gpu_bytes - engine.weights - engine.working
    return max(0, int(room / engine.bytes_per_token))


def tightest(phases: Mapping[str, Mapping[str, float]]) -> tuple[str, str]:
    """Return the phase that takes most, and the largest part in it."""
    phase = max(phases, key=lambda name: sum(phases[name].values()))
    return phase, max(phases[phase], key=lambda part: phases[phase][part])

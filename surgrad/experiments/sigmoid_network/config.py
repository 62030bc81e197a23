"""Configuration of the Sigmoid_network suite: one dataclass per script, weights and slopes without unit, times in s."""

from dataclasses import dataclass, field
from typing import Any

from surgrad.config import validate
from surgrad.config.common import CommonConfig
from surgrad.config.validate import at_least, not_empty, not_negative, one_of, positive
from surgrad.errors import UserError


@dataclass
class PlaneConfig:
    """The plane of the loop: two rows of a random orthogonal matrix, or two directions of one's own."""

    seed: int = 124  # of scipy.stats.ortho_group
    rows: list[int] = field(default_factory=lambda: [1, 0])  # the loop starts at the first, moves toward the second
    first: list[float] | None = None  # a direction of one's own, one value per weight; null: the rows above
    second: list[float] | None = None  # orthogonal to it

    def __post_init__(self) -> None:
        if len(self.rows) != 2:
            raise UserError(f"plane.rows={self.rows}: wanted two rows")
        not_negative(self, "plane.", "rows")
        if (self.first is None) != (self.second is None):
            raise UserError("plane.first, plane.second: give both directions or neither")


@dataclass
class ClosedCircleConfig(CommonConfig):
    """Is the SG a gradient: its integral around a closed circle in weight space."""

    device: str = "cpu"
    sizes: list[int] = field(default_factory=lambda: [1, 1, 2, 1])  # units per layer, input first, one output
    x: list[float] = field(default_factory=lambda: [1.0])  # the input, one value per input unit
    beta: float = 1e4  # slope of the network; 1e4 stands for a step
    betas_sg: list[float] = field(default_factory=lambda: [1.0, 5.0, 20.0])  # slopes of the surrogate
    plane: PlaneConfig = field(default_factory=PlaneConfig)
    radius: float = 1.8
    center: list[float] | None = None  # one value per weight; null: the origin
    tolerance: float = 1e-10  # absolute, of each loop integral
    max_evaluations: int = 2_000_000
    published_points: int = 1500  # of the published equal-weight rule
    max_points: int = 200_000  # of the equal-weight rule in the convergence figure
    nb_rules: int = 240  # point counts between 50 and max_points
    extent: float = 2.5  # half-width of the maps
    nb_grid: int = 201  # points per side of the maps
    nb_radii: int = 24  # radii at which the curl is integrated

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.sizes) < 2 or self.sizes[-1] != 1:
            raise UserError(f"sizes={self.sizes}: wanted the units of two or more layers, and one output")
        if len(self.x) != self.sizes[0]:
            raise UserError(f"x={self.x}: wanted one value for each of the sizes[0]={self.sizes[0]} inputs")
        not_empty(self, "", "betas_sg")
        positive(self, "", "sizes", "beta", "betas_sg", "radius", "tolerance", "max_evaluations", "extent")
        positive(self, "", "nb_rules", "nb_grid", "nb_radii")
        at_least(3, self, "", "published_points")
        at_least(50, self, "", "max_points")


@dataclass
class SweepConfig:
    """One weight over a grid, the others fixed."""

    beta: float = 100.0
    betas_sg: list[float] = field(default_factory=lambda: [15.0, 30.0, 100.0])
    weights: list[float] = field(default_factory=lambda: [0.0, 0.05, 0.1, 1.0, -1.0])
    index: int = 0  # which weight is swept
    lower: float = -0.2
    upper: float = 0.2
    nb_points: int = 10_001

    def __post_init__(self) -> None:
        not_empty(self, "sweep.", "betas_sg")
        positive(self, "sweep.", "beta", "betas_sg")
        at_least(2, self, "sweep.", "nb_points")
        if not 0 <= self.index < len(self.weights):
            raise UserError(f"sweep.index={self.index}: there are weights 0 to {len(self.weights) - 1}")
        if not self.lower < self.upper:
            raise UserError(f"sweep.lower={self.lower}: must be below sweep.upper={self.upper}")


@dataclass
class PlanesConfig:
    """Planes of two weights with a probe point each."""

    beta: float = 20.0
    betas_sg: list[float] = field(default_factory=lambda: [2.0, 4.0, 20.0])
    extent: float = 2.0
    nb_grid: int = 201
    v_weights: list[float] = field(default_factory=lambda: [1.0, 0.0, 0.0, 1.0, -1.0])
    v_probe: list[float] = field(default_factory=lambda: [1.7, -1.3])
    u_weights: list[float] = field(default_factory=lambda: [1.0, 0.05, 0.1, 0.0, 0.0])
    u_probe: list[float] = field(default_factory=lambda: [-0.1, 1.0])

    def __post_init__(self) -> None:
        not_empty(self, "planes.", "betas_sg")
        positive(self, "planes.", "beta", "betas_sg", "extent")
        at_least(2, self, "planes.", "nb_grid")


@dataclass
class FlowConfig:
    """Descent in a window of two weights, from a grid of starts."""

    axes: list[int] = field(default_factory=lambda: [0, 2])  # w and v2
    lower: list[float] = field(default_factory=lambda: [-0.2, 0.0])
    upper: list[float] = field(default_factory=lambda: [0.2, 0.2])
    nb_starts: list[int] = field(default_factory=lambda: [5, 3])
    duration: float = 1e6  # gradient flow time: steps times learning rate

    def __post_init__(self) -> None:
        positive(self, "flow.", "nb_starts", "duration")
        not_negative(self, "flow.", "axes")
        for name in ("axes", "lower", "upper", "nb_starts"):
            if len(getattr(self, name)) != 2:
                raise UserError(f"flow.{name}={getattr(self, name)}: wanted two values, one for each axis")


@dataclass
class SignBiasConfig(CommonConfig):
    """Where the SG has the wrong sign, and where descent along it ends, in the five-weight network."""

    device: str = "cpu"
    x: list[float] = field(default_factory=lambda: [1.0])
    sweep: SweepConfig = field(default_factory=SweepConfig)
    planes: PlanesConfig = field(default_factory=PlanesConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)


@dataclass
class PerceptronConfig:
    """A perceptron whose inputs share one weight."""

    nb_inputs: int = 8
    rate: float = 0.4  # probability that an input is 1
    lower: float = -0.2
    upper: float = 1.2
    nb_weights: int = 141
    nb_sampled: int = 9  # weights at which spikes are drawn
    nb_samples: int = 40_000

    def __post_init__(self) -> None:
        positive(self, "perceptron.", "nb_inputs", "nb_weights", "nb_sampled", "nb_samples")
        validate.probability(self, "perceptron.", "rate")


@dataclass
class DrivenLIFConfig:
    """A LIF neuron driven by Poisson input."""

    noise: str = "sigmoid"  # a name in `noises`
    nb_inputs: int = 40
    rate: float = 20.0  # Hz
    weight: float = 0.3  # mean weight; weights are uniform in 0 to twice that
    nb_steps: int = 200
    dt: float = 1e-3  # s
    tau_mem: float = 10e-3  # s
    tau_syn: float = 5e-3  # s
    nb_samples: int = 20_000

    def __post_init__(self) -> None:
        positive(self, "lif.", "nb_inputs", "nb_steps", "dt", "tau_mem", "tau_syn", "nb_samples")
        not_negative(self, "lif.", "rate")
        if self.rate * self.dt > 1:
            raise UserError(f"lif.rate={self.rate} Hz: more than one spike per step of lif.dt={self.dt} s")


def _noises() -> dict[str, Any]:
    """Surrogates are their derivatives."""
    return {
        "sigmoid": {"_target_": "surgrad.escape_noise.Sigmoid", "beta": 10},
        "exponential": {"_target_": "surgrad.escape_noise.Exponential", "p0": 2 / 3, "delta_u": 0.133},
        "Gaussian": {"_target_": "surgrad.theory.single_neuron.Gaussian", "width": 0.2},
    }


@dataclass
class SingleNeuronConfig(CommonConfig):
    """One stochastic neuron against the SG of its deterministic counterpart."""

    device: str = "cpu"
    seed: int = 3
    noises: dict[str, Any] = field(default_factory=_noises)  # name: {_target_: an escape noise, or a callable x -> p}
    perceptron: PerceptronConfig = field(default_factory=PerceptronConfig)
    lif: DrivenLIFConfig = field(default_factory=DrivenLIFConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.noises:
            raise UserError("noises: is empty; give e.g. noises.sigmoid._target_=surgrad.escape_noise.Sigmoid")
        for name, node in self.noises.items():
            validate.node(f"noises.{name}", node, "surgrad.escape_noise.Sigmoid")
        one_of("lif.noise", self.lif.noise, self.noises)


@dataclass
class ChainConfig:
    """The two-neuron chain at its threshold."""

    beta: float = 10.0
    theta: float = 1.0
    v_upper: float = 2.5
    nb_points: int = 126
    nb_samples: int = 20_000

    def __post_init__(self) -> None:
        positive(self, "chain.", "beta", "v_upper", "nb_samples")
        at_least(2, self, "chain.", "nb_points")


@dataclass
class GradientEstimatorsConfig(CommonConfig):
    """Estimators of the gradient of stochastic binary networks against the exact one."""

    device: str = "cpu"
    methods: list[str] = field(
        default_factory=lambda: [
            "sg",
            "smoothed_right",
            "straight_through",
            "deterministic_sg",
            "finite_difference",
            "stochastic_ad",
            "stochastic_ad_pruned",
            "stochastic_ad_both",
            "score",
            "score_loo",
        ]
    )
    width: int = 4  # units per layer, and inputs
    gain: float = 2.0  # weights ~ N(0, gain^2 / width)
    beta: float = 4.0  # slope of the networks of all depths
    depth: int = 3  # layers of the networks of all slopes
    depths: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 6, 8])
    betas: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    nb_networks: int = 8  # random networks per value
    nb_samples: int = 1000  # samples per network and method
    nb_averaged: int = 100  # samples averaged for the cosine
    sample_counts: list[int] = field(default_factory=lambda: [1, 3, 10, 30, 100, 300, 1000])
    sample_repeats: int = 20
    chain: ChainConfig = field(default_factory=ChainConfig)
    coverage_repetitions: int = 200
    coverage_samples: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        not_empty(self, "", "methods", "depths", "betas", "sample_counts")
        positive(self, "", "width", "gain", "beta", "depth", "depths", "betas", "nb_networks", "sample_counts")
        positive(self, "", "nb_samples", "nb_averaged", "sample_repeats", "coverage_repetitions", "coverage_samples")

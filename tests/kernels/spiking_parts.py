"""Every surrogate and escape noise of the library, with parameters at which kernels are compared."""

from surgrad.neurons import escape_noise, surrogate

SURROGATES = [
    surrogate.SuperSpike(10.0),
    surrogate.AsymptoticSuperSpike(4.0),
    surrogate.SigmoidPrime(8.0),
    surrogate.ScaledSigmoidPrime(8.0),
    surrogate.Esser(0.7),
    surrogate.Exponential(2 / 3, 0.4),
    surrogate.MultilayerSpiker(),
    surrogate.TrueGradient(),
    surrogate.ArcTan(5.0),
    surrogate.Slayer(5.0, 0.4),
]
NOISES = [escape_noise.Step(), escape_noise.Sigmoid(7.0), escape_noise.Exponential(2 / 3, 0.133)]

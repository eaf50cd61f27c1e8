"""Requirements for evaluating a model at an endpoint: consent to send rows, a spending cap, and a key."""

from mlxtune.core.errors import InputError
from mlxtune.evaluation.arms import ENDPOINT, OPTIMIZED
from mlxtune.evaluation.judge.endpoint import api_key, host, is_local
from mlxtune.recipe import Endpoint, Recipe


def endpoint_arms(recipe: Recipe) -> dict[str, Endpoint]:
    """Return the endpoints that the recipe's arms use, by the name of the arm."""
    section = recipe.evaluation
    names = {arm: arm.removeprefix(ENDPOINT) for arm in section.arms if arm.startswith(ENDPOINT)}
    if OPTIMIZED in section.arms and section.optimizer:
        names[OPTIMIZED] = section.optimizer
    return {arm: section.endpoints[name] for arm, name in names.items()}


def remote_hosts(recipe: Recipe) -> list[str]:
    """Return the hosts other than this machine to which held-out prompts or, to optimize a prompt, training rows would be sent.

    Raises ``InputError`` for an unsafe URL.
    """
    hosts = (host(endpoint.url) for endpoint in endpoint_arms(recipe).values())
    return sorted({name for name in hosts if not is_local(name)})


def require_endpoints(recipe: Recipe, consent: str) -> None:
    """Raise ``InputError`` unless the recipe's endpoints have a key and, if they are not on this machine, a cap and consent."""
    for arm, endpoint in endpoint_arms(recipe).items():
        secret_key(endpoint)
        if not is_local(host(endpoint.url)) and not (endpoint.cap and endpoint.price_in and endpoint.price_out):
            raise InputError(
                f"{arm} costs money, so it needs prices and a spending cap.",
                hint="Set price_in and price_out (dollars per million tokens) and cap in its section of [evaluation.endpoints].",
            )
    if (hosts := remote_hosts(recipe)) and not consent:
        raise InputError(
            f"Rows will be sent to {', '.join(hosts)}, which needs your consent.",
            hint="Consent with mlxtune eval --send, or leave the endpoint out of evaluation.arms.",
        )


def secret_key(endpoint: Endpoint) -> str:
    """Return the endpoint's key from the environment. Raises ``InputError`` if it is missing."""
    return api_key(endpoint.url, endpoint.key_env)

"""What a training costs besides time: energy, carbon dioxide, money; each by a recipe that was published.

Energy is device-hours times the device's power times the data centre's overhead (PUE); Llama's papers take the data
sheet's power and 1.1. Carbon dioxide is energy times the grid's intensity (kg for each kWh). Money is device-hours
times what was asked for an hour on a date: a range, because vendors differ fivefold, and nothing where nobody's price
is known.
"""

from __future__ import annotations

from typing import Any

from malmoi.plan.hardware import prices

PUE = 1.1  # Llama 2 (arXiv 2307.09288) and its predecessors
GRID = 0.385  # kg of CO2 for a kWh: the US average that Llama 2's model card uses


def energy_kwh(device_hours: float, watts: float, pue: float = PUE) -> float:
    """Kilowatt-hours at the socket of the data centre."""
    return device_hours * watts / 1000 * pue


def carbon_tonnes(kwh: float, grid: float = GRID) -> float:
    """Tonnes of CO2 equivalent."""
    return kwh * grid / 1000


def money(device: str, device_hours: float) -> dict[str, Any] | None:
    """Dollars from the lowest to the highest price that is known for a device, with dates; None where none is."""
    known = prices(device)
    if not known:
        return None
    return {
        "low": device_hours * known[0].dollars,
        "high": device_hours * known[-1].dollars,
        "usd_per_device_hour": [known[0].dollars, known[-1].dollars],
        "vendors": [known[0].vendor, known[-1].vendor],
        "dates": [min(price.date for price in known), max(price.date for price in known)],
    }

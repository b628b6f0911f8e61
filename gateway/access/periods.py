"""The calendar's days, weeks and months, in UTC: when the one of a given time began, and when it ends.

Times are seconds since the epoch. Here and not from ``datetime``, because what imports that can ask for the time.
"""

from __future__ import annotations

from gateway.access.limits import Period

DAY = 86_400

_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November"),
    "December",
)


def start(period: Period, wall: float) -> int:
    """When the period began that ``wall`` lies in."""
    days = int(wall // DAY)
    if period == "week":
        # The epoch began on a Thursday.
        days -= (days + 3) % 7
    elif period == "month":
        days -= _date(days)[1] - 1
    return days * DAY


def end(period: Period, wall: float) -> int:
    """When the next one begins."""
    # Any month has at most 31 days, so the first of one and 31 days lie in the next.
    length = {"day": 1, "week": 7, "month": 31}[period]
    return start(period, start(period, wall) + length * DAY)


def date_in_words(wall: float) -> str:
    """``1 December``."""
    month, day = _date(int(wall // DAY))
    return f"{day} {_MONTHS[month - 1]}"


def _date(days: int) -> tuple[int, int]:
    """Month and day of the month, both from 1, of a day counted from the epoch.

    Howard Hinnant's ``civil_from_days``: years that begin in March end with the leap day, and go in eras of 400.
    """
    day_of_era = (days + 719_468) % 146_097
    year = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    month = (5 * day_of_year + 2) // 153
    return (month + 2) % 12 + 1, day_of_year - (153 * month + 2) // 5 + 1

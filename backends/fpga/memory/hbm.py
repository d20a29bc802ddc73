"""The memory of the test bench: how one HBM2 pseudo-channel answers, with every figure and where it is from.

One pseudo-channel serves its requests in order, one 64-byte beat at a time. A beat of an open page waits for the beats
before it; another page of the bank has to be closed and opened first, which starts when the request arrives and so
hides behind earlier beats unless the bank was opened too recently. Refresh stops the channel and closes all pages.

It is a model of a memory controller nobody has described in full: its figures are published or assumed as said below,
and its cycles are *simulated*, not measured on a card.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class HbmModel:
    """Figures of one pseudo-channel; times in nanoseconds."""

    bytes_per_ns: float = 14.375
    """460 GB/s of the card over 32 channels (AMD data sheet DS978)."""
    hit_latency_ns: float = 106.7
    """From a request to its data, page open, switch not crossed (published: Wang et al., Shuhai, FCCM 2020, U280)."""
    activate_ns: float = 15.5
    """Added when the page is closed (published, same: 122.2 ns)."""
    precharge_ns: float = 15.6
    """Added when another page is open (published, same: 137.8 ns)."""
    bank_cycle_ns: float = 47.0
    """Between two activations of a bank (assumed; usual for HBM2)."""
    turnaround_ns: float = 8.0
    """When the channel changes between reading and writing (assumed)."""
    write_latency_ns: float = 80.0
    """From the last word of a write to its answer (assumed)."""
    refresh_interval_ns: float = 3900.0
    """Between refreshes (assumed; usual for HBM2)."""
    refresh_ns: float = 260.0
    """Length of a refresh; with the interval 93% remain, published for sequential reads are 92% (Shuhai)."""
    page_bytes: int = 1024
    """Of one bank of a pseudo-channel (HBM2)."""
    banks: int = 16
    """Of a pseudo-channel (HBM2)."""
    requests_in_flight: int = 64
    """Bursts a port has accepted and not answered (assumed)."""

    @property
    def sequential_fraction(self) -> float:
        """Share of the peak left by refreshes when addresses are sequential."""
        return 1.0 - (self.refresh_ns + self.activate_ns) / self.refresh_interval_ns

    def beat_cycles(self, clock_hz: float) -> float:
        """Kernel cycles per 64-byte beat in a long sequential read, refreshes included; at least 1, the port's rate."""
        return max(64 / self.bytes_per_ns / self.sequential_fraction * clock_hz * 1e-9, 1.0)

    def stall_cycles(self, words: float, taken_cycles: float, lead_cycles: float, clock_hz: float) -> float:
        """Cycles that a reader which is slower than the channel waits for the first refresh, on average.

        Words come faster than they are taken, so a lead builds up that later refreshes pass in; the first comes at any
        moment of an interval and waits for what the lead at that moment does not cover.

        Args:
            words: of 64 bytes that are read.
            taken_cycles: in which they are taken.
            lead_cycles: of words that wait in the buffer at the start.
            clock_hz: of the kernel.
        """
        per_ns = clock_hz * 1e-9
        refresh = (self.refresh_ns + self.activate_ns) * per_ns - lead_cycles
        arriving = words * max(64 / self.bytes_per_ns * per_ns, 1.0)
        if refresh <= 0 or arriving <= 0:
            return 0.0
        gained = max(taken_cycles / arriving - 1, 0.0)
        interval = self.refresh_interval_ns * per_ns
        end = min(arriving, interval, refresh / gained if gained else math.inf)
        return (refresh * end - gained * end**2 / 2) / interval

    def row_cycles(self, row_bytes: int, clock_hz: float, least: float = 0.0) -> float:
        """Kernel cycles per row when rows anywhere in a large table are asked for ahead of time, on average.

        Its beats, and waiting for its bank: with one of ``banks`` for each row at random, the row that came j before
        had the same bank with a chance of 1 / ``banks``, and then this one's page can be opened ``precharge_ns`` and
        ``activate_ns`` after that one's last beat, of which j - 1 rows have passed.

        Args:
            row_bytes: of a row.
            clock_hz: of the kernel.
            least: cycles per row of whoever takes them.
        """
        beats = math.ceil(row_bytes / 64) * self.beat_cycles(clock_hz)
        # Refreshes take their part of waiting as they do of sequential reads.
        opening = (self.precharge_ns + self.activate_ns) / self.sequential_fraction * clock_hz * 1e-9
        waiting = [beats + opening - between * beats for between in range(math.ceil(opening / beats))]
        at_once = (self.banks - len(waiting)) * max(beats, least)
        return (at_once + sum(max(cycles, least) for cycles in waiting)) / self.banks

    def definitions(self, clock_hz: float) -> str:
        """The figures as C++ constants, times in kernel cycles."""
        per_ns = clock_hz * 1e-9
        lines = [f"static const double BEAT = {64 / self.bytes_per_ns * per_ns!r};"]
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name.endswith("_ns") and entry.name != "bytes_per_ns":
                lines.append(f"static const double {entry.name[:-3].upper()} = {value * per_ns!r};")
            elif isinstance(value, int):
                lines.append(f"static const uint64_t {entry.name.upper()} = {value};")
        return "\n".join(lines) + "\n"


CHANNELS = r"""
struct Bank { int64_t page; double opened, activated, used; };
struct Channel {
  std::vector<Bank> banks;
  double free_at, refresh_at;
  bool wrote;
  Channel() : banks(BANKS, Bank{-1, -1e9, -1e9, -1e9}), free_at(0), refresh_at(REFRESH_INTERVAL), wrote(false) {}
  // When the last byte of a beat has crossed the pins, for a request that came at `now`.
  double serve(uint64_t address, double now, bool write) {
    // Refreshes that are over closed every page before this request came.
    while (now >= refresh_at + REFRESH) { for (auto& one : banks) one.page = -1; refresh_at += REFRESH_INTERVAL; }
    uint64_t page = address / PAGE_BYTES;
    Bank& bank = banks[page % BANKS];
    int64_t row = (int64_t)(page / BANKS);
    if (bank.page != row) {
      double at = std::max(now, bank.activated + BANK_CYCLE);
      if (bank.page >= 0) at = std::max(at, bank.used) + PRECHARGE;
      bank.activated = at;
      bank.opened = at + ACTIVATE;
      bank.page = row;
    }
    double start = std::max(std::max(now, free_at), bank.opened);
    if (write != wrote) start = std::max(start, free_at + TURNAROUND);
    while (start >= refresh_at) {
      double over = refresh_at + REFRESH;
      refresh_at += REFRESH_INTERVAL;
      if (start >= over + ACTIVATE) { for (auto& one : banks) one.page = -1; bank.page = row; continue; }
      for (auto& one : banks) one.page = -1;
      bank.page = row;
      bank.activated = over;
      start = over + ACTIVATE;
      bank.opened = start;
    }
    wrote = write;
    free_at = start + BEAT;
    bank.used = free_at;
    return free_at;
  }
};
"""


__all__ = ["CHANNELS", "HbmModel"]

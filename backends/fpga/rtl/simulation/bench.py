"""The C++ test bench of a whole kernel: host registers, memory, and the AXI4 masters between them.

It is strict where a card is only unlucky: a burst over 4 KB, a master that leaves its pseudo-channel and an address
without a buffer fail; data read before the answer to a write are old.
"""

from __future__ import annotations

from hetcc.backends.fpga.memory.hbm import CHANNELS, HbmModel
from hetcc.backends.fpga.memory.memory_map import ANSWER_OFFSET, MAILBOX, MODE, STOP, MemoryMap

_HEAD = r"""#include "Vkernel.h"
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <vector>
"""

_MEMORY = r"""
static uint64_t now = 0;
static uint32_t noise = 1, stall_permille = 0;
static void fail(const char* why, uint64_t a, uint64_t b) {
  fprintf(stderr, "%s: %llx %llx at cycle %llu\n", why, (unsigned long long)a, (unsigned long long)b,
          (unsigned long long)now);
  exit(3);
}
static bool pauses() {
  if (!stall_permille) return false;
  noise ^= noise << 13; noise ^= noise >> 17; noise ^= noise << 5;
  return noise % 1000 < stall_permille;
}
struct Region { uint64_t base; std::vector<uint8_t> bytes; };
static std::vector<Region> regions;
static std::vector<Channel> channels(32);
static uint8_t* at(uint64_t address) {
  for (auto& region : regions)
    if (address >= region.base && address + 64 <= region.base + region.bytes.size())
      return region.bytes.data() + (address - region.base);
  fail("no buffer there", address, 0);
  return 0;
}
struct Beat { double ready; uint32_t data[16]; bool last; };
struct Write { double ready; uint64_t address; uint32_t data[16]; uint64_t strobe; };
struct Port {
  unsigned bank;
  uint8_t *arvalid, *arready, *arlen, *rvalid, *rready, *rlast; uint64_t* araddr; uint32_t* rdata;
  uint8_t *awvalid, *awready, *awlen, *wvalid, *wready, *wlast, *bvalid, *bready;
  uint64_t *awaddr, *wstrb; uint32_t* wdata;
  std::deque<Beat> beats;
  std::deque<uint64_t> addresses;
  std::deque<Write> words, answers;
  unsigned bursts;
  uint64_t beats_read, words_written, first_beat, last_beat, first_word, last_word;
  void check(uint64_t address, unsigned length) {
    if (address & 63) fail("not aligned", address, length);
    if ((address >> 12) != ((address + 64 * (uint64_t)length - 1) >> 12)) fail("burst over 4 KB", address, length);
    if ((address >> 29) != bank) fail("outside its pseudo-channel", address, bank);
  }
  void drive() {
    *arready = bursts < REQUESTS_IN_FLIGHT && !pauses();
    bool here = !beats.empty() && beats.front().ready <= (double)now && !pauses();
    *rvalid = here;
    *rlast = here && beats.front().last;
    if (here) memcpy(rdata, beats.front().data, 64);
    if (!awvalid) return;
    *awready = addresses.size() < 16 && !pauses();
    *wready = words.size() < 16 && !pauses();
    *bvalid = !answers.empty() && answers.front().ready <= (double)now && !pauses();
  }
  void step() {
    if (*arvalid && *arready) {
      unsigned length = *arlen + 1u;
      check(*araddr, length);
      ++bursts;
      for (unsigned i = 0; i < length; ++i) {
        uint64_t address = *araddr + 64ull * i;
        Beat beat;
        double over = channels[bank].serve(address & 0x1fffffff, (double)now, false) - BEAT + HIT_LATENCY;
        beat.ready = beats.empty() ? over : std::max(over, beats.back().ready);
        beat.last = i + 1 == length;
        memcpy(beat.data, at(address), 64);
        beats.push_back(beat);
      }
    }
    if (*rvalid && *rready) {
      if (!beats_read++) first_beat = now;
      last_beat = now;
      if (beats.front().last) --bursts;
      beats.pop_front();
    }
    if (!awvalid) return;
    if (*awvalid && *awready) {
      check(*awaddr, *awlen + 1u);
      if (*awlen) fail("write burst", *awaddr, *awlen);
      addresses.push_back(*awaddr);
    }
    if (*wvalid && *wready) { Write word; memcpy(word.data, wdata, 64); word.strobe = *wstrb; words.push_back(word); }
    if (*bvalid && *bready) answers.pop_front();
    while (!addresses.empty() && !words.empty()) {
      Write word = words.front();
      word.address = addresses.front();
      word.ready = channels[bank].serve(word.address & 0x1fffffff, (double)now, true) + WRITE_LATENCY;
      words.pop_front(); addresses.pop_front();
      answers.push_back(word);
    }
    // What is written can be read once the answer can be given, not earlier.
    for (auto& word : answers)
      if (word.ready <= (double)now + 1 && word.strobe) {
        if (!words_written++) first_word = now;
        last_word = now;
        uint8_t* target = at(word.address);
        for (int i = 0; i < 64; ++i) if (word.strobe >> i & 1) target[i] = ((uint8_t*)word.data)[i];
        word.strobe = 0;
      }
  }
};
"""

_MAIN = r"""
static Vkernel top;
static std::vector<Port> ports;
static void tick() {
  for (auto& port : ports) port.drive();
  top.ap_clk = 0; top.eval();
  for (auto& port : ports) port.step();
  top.ap_clk = 1; top.eval();
  ++now;
}
static void lite_write(uint32_t address, uint32_t data) {
  top.s_axi_control_awvalid = 1; top.s_axi_control_awaddr = address;
  top.s_axi_control_wvalid = 1; top.s_axi_control_wdata = data; top.s_axi_control_wstrb = 15;
  top.s_axi_control_bready = 1;
  for (int i = 0; i < 100; ++i) {
    top.ap_clk = 0; top.eval();
    bool a = top.s_axi_control_awvalid && top.s_axi_control_awready;
    bool w = top.s_axi_control_wvalid && top.s_axi_control_wready;
    bool b = top.s_axi_control_bvalid;
    tick();
    if (a) top.s_axi_control_awvalid = 0;
    if (w) top.s_axi_control_wvalid = 0;
    if (b) return;
  }
  fail("no answer to a register write", address, data);
}
static uint32_t lite_read(uint32_t address) {
  top.s_axi_control_arvalid = 1; top.s_axi_control_araddr = address; top.s_axi_control_rready = 1;
  for (int i = 0; i < 100; ++i) {
    top.ap_clk = 0; top.eval();
    bool a = top.s_axi_control_arvalid && top.s_axi_control_arready, r = top.s_axi_control_rvalid;
    uint32_t data = top.s_axi_control_rdata;
    tick();
    if (a) top.s_axi_control_arvalid = 0;
    if (r) return data;
  }
  fail("no answer to a register read", address, 0);
  return 0;
}
static uint64_t word64(FILE* in) { uint64_t value = 0; if (fread(&value, 8, 1, in) != 1) exit(2); return value; }
static uint64_t limit = 2000000000ull;
static void until_interrupt() {
  uint64_t end = now + limit;
  while (!top.__SYM__interrupt) { if (now > end) fail("no end of the run", now, 0); tick(); }
}
static void acknowledge() {
  uint32_t control = lite_read(0);
  if ((control & 0xe) != 0xe) fail("not done and idle", control, 0);
  if ((lite_read(0) & 0xf) != 4) fail("done was not cleared", control, 0);
  lite_write(0xc, 1);
  tick();
  if (top.__SYM__interrupt) fail("interrupt stays", 0, 0);
}
int main(int argc, char** argv) {
  if (argc != 3) return 2;
  FILE* in = fopen(argv[1], "rb");
  FILE* out = fopen(argv[2], "wb");
  if (!in || !out) return 2;
  BIND
  uint64_t count = word64(in), runs = word64(in), persistent = word64(in);
  stall_permille = (uint32_t)word64(in);
  noise = (uint32_t)word64(in) | 1;
  limit = word64(in);
  uint64_t apart = word64(in);
  static const uint32_t offsets[] = {OFFSETS};
  for (uint64_t i = 0; i < count; ++i) {
    Region region;
    region.base = word64(in);
    region.bytes.resize(word64(in));
    if (region.bytes.size() && fread(region.bytes.data(), 1, region.bytes.size(), in) != region.bytes.size()) return 2;
    regions.push_back(region);
  }
  top.ap_rst_n = 0;
  for (int i = 0; i < 4; ++i) tick();
  top.ap_rst_n = 1;
  if (lite_read(0) != 4) fail("not idle after reset", 0, 0);
  for (uint64_t i = 0; i < count; ++i) {
    lite_write(offsets[i], (uint32_t)regions[i].base);
    lite_write(offsets[i] + 4, (uint32_t)(regions[i].base >> 32));
    if (lite_read(offsets[i]) != (uint32_t)regions[i].base) fail("a register does not keep its value", i, 0);
  }
  lite_write(MODE_REGISTER, (uint32_t)persistent);
  lite_write(4, 1);
  lite_write(8, 1);
  std::vector<uint64_t> taken, begun;
  uint32_t* mailbox = (uint32_t*)regions[MAILBOX_AT].bytes.data();
  if (persistent) { mailbox[0] = 0; lite_write(0, 1); }
  for (uint64_t run = 0; run < runs; ++run) {
    for (uint64_t wait = 0; run && wait < apart; ++wait) tick();
    if (persistent) {
      for (uint64_t wait = 0; wait < 300 + 37 * run; ++wait) tick();
      uint64_t start = now;
      mailbox[0] = (uint32_t)run + 1;
      while (mailbox[ANSWER] != run + 1) { if (now > start + limit) fail("no answer to a doorbell", run, 0); tick(); }
      taken.push_back(now - start);
      begun.push_back(start);
    } else {
      lite_write(0, 1);
      uint64_t start = now;
      until_interrupt();
      taken.push_back(now - start);
      begun.push_back(start);
      acknowledge();
    }
  }
  if (persistent) { mailbox[0] = STOP; until_interrupt(); acknowledge(); }
  fwrite(taken.data(), 8, taken.size(), out);
  fwrite(begun.data(), 8, begun.size(), out);
  for (auto& port : ports) {
    uint64_t moved[6] = {port.beats_read, port.words_written, port.first_beat, port.last_beat, port.first_word,
                         port.last_word};
    fwrite(moved, 8, 6, out);
  }
  for (auto& region : regions) fwrite(region.bytes.data(), 1, region.bytes.size(), out);
  fclose(out);
  return 0;
}
"""


def bench_text(memory: MemoryMap, hbm: HbmModel, clock_hz: float) -> str:
    """The bench of a kernel.

    Args:
        memory: its memory map.
        hbm: the memory.
        clock_hz: clock of the kernel, which turns nanoseconds into cycles.
    """
    bind = []
    for master in memory.masters:
        name = f"top.m_axi_{master.name}_"
        bind.append("{ Port port = Port(); " + f"port.bank = {master.bank}; " + "".join(
            f"port.{signal} = (decltype(port.{signal}))&{name}{signal}; " for signal in _signals(master.writes))
            + "ports.push_back(port); }")
    pointers = memory.pointers
    text = _MAIN.replace("BIND", "\n  ".join(bind))
    text = text.replace("OFFSETS", ", ".join(f"{argument.offset:#x}" for argument in pointers))
    text = text.replace("MODE_REGISTER", f"{memory.named(MODE).offset:#x}")
    text = text.replace("MAILBOX_AT", str(next(at for at, argument in enumerate(pointers) if argument.name == MAILBOX)))
    text = text.replace("ANSWER", str(ANSWER_OFFSET // 4)).replace("= STOP", f"= {STOP:#x}u")
    return _HEAD + hbm.definitions(clock_hz) + CHANNELS + _MEMORY + text


def _signals(writes: bool) -> tuple[str, ...]:
    read = ("arvalid", "arready", "arlen", "rvalid", "rready", "rlast", "araddr", "rdata")
    return read + (("awvalid", "awready", "awlen", "wvalid", "wready", "wlast", "bvalid", "bready", "awaddr", "wstrb",
                    "wdata") if writes else ())


__all__ = ["bench_text"]

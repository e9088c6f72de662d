"""The engine's counter-based random numbers (engine/random.h), so that scripts and tests draw the same values."""

MASK32, MASK64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


def stream_of(name):
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK64
    return value


def philox(key, high, low):
    k0, k1 = key & MASK32, key >> 32
    c = [low & MASK32, low >> 32, high & MASK32, high >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & MASK32, (p0 >> 32) ^ c[3] ^ k1, p0 & MASK32]
        k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
    return c


class Random:
    def __init__(self, seed, name):
        self.seed, self.stream, self.index, self.block, self.words = seed, stream_of(name), 0, -1, None

    def bits(self):
        block = self.index // 4
        if block != self.block:
            self.words, self.block = philox(self.seed, self.stream, block), block
        self.index += 1
        return self.words[(self.index - 1) % 4]

    def uniform(self, low=0.0, high=1.0):
        a, b = self.bits() >> 5, self.bits() >> 6
        return low + (high - low) * ((a * 67108864 + b) / 9007199254740992.0)

    def below(self, count):
        return int(self.uniform() * count)

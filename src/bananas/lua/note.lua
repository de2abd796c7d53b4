#!lua flags=allow-oom
-- Write down what an operator did (a script, since a plain LPUSH is refused on a full server). Without the prelude.
-- KEYS 1 trail LIST
-- ARGV 1 not used, 2 packed deed, 3 how many are kept
-- Returns 1.
redis.call('LPUSH', KEYS[1], ARGV[2])
redis.call('LTRIM', KEYS[1], 0, ARGV[3] - 1)
return 1

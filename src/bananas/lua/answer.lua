#!lua flags=allow-oom
-- What a worker answers to an order (a script, since a plain SET is refused on a full server). Without the prelude.
-- KEYS 1 answer:<order> STRING
-- ARGV 1 not used, 2 the answer, 3 ms for which it is kept
-- Returns 1.
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1

#!lua flags=allow-oom
-- Move jobs that are due from scheduled to ready, each with its due time as its time of entry.
-- KEYS none beyond the fixed ones
-- ARGV 2 most jobs (at most 1,000)
-- Returns {jobs moved, ms until the next scheduled job or -1}.
-- Cost: about 3 us a job.
local due = call('ZRANGEBYSCORE', SCHEDULED, '-inf', NOW, 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local scored = {}
for i = 1, #due, 2 do
  scored[i], scored[i + 1] = score_at(due[i], tonumber(due[i + 1])), due[i]
end
make_ready(scored)
if #due > 0 then call('ZREMRANGEBYRANK', SCHEDULED, 0, #due / 2 - 1) end
local next_due = call('ZRANGE', SCHEDULED, 0, 0, 'WITHSCORES')[2]
return {#due / 2, next_due and math.max(0, next_due - NOW) or -1}

-- What every script shares, inserted behind its shebang line: names for the fixed keys, the clock, and the paths that nobody may write twice.
-- KEYS 1..11, the same for every script; ARGV[1] now in ms, or '' for the server's clock (read once: on 7.0 it moves within a script).
-- Returns nothing: the script that follows does.
local JOBS, READY, PRIO, SCHEDULED, LEASES, TRIES, DEAD, CANCELLED, UNIQUE, META, WAKE = unpack(KEYS, 1, 11)
local STEP = 4398046511104 -- 2^42: a score is priority * STEP + ms of entry
local call, NOW = redis.call, tonumber(ARGV[1])
if not NOW then
  local time = call('TIME')
  NOW = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Wake one idle worker, unless the queue is paused.
local function arm() if call('HEXISTS', META, 'paused') == 0 then call('ZADD', WAKE, 0, 'w') end end

-- Insert into ready: scored = {score, id, score, id, ...}, at most 1,000 ids.
local function make_ready(scored) if #scored > 0 then call('ZADD', READY, unpack(scored)) arm() end end

-- The score of a job that enters ready at `ms`, by its changed priority or the one in its id.
local function score_at(id, ms)
  return string.format('%.0f', (call('HGET', PRIO, id) or tonumber(string.sub(id, 41, 43), 16)) * STEP + ms)
end

-- Give up the unique key of a job if it still names this job.
local function free_unique(id)
  local key = call('HGET', UNIQUE, id)
  if key and call('HGET', UNIQUE, '=' .. key) == id then call('HDEL', UNIQUE, '=' .. key) end
end

-- The only way out of a queue.
local function forget(ids)
  if #ids == 0 then return end
  if call('EXISTS', UNIQUE) == 1 then
    for _, id in ipairs(ids) do free_unique(id) end
    call('HDEL', UNIQUE, unpack(ids))
  end
  if call('EXISTS', PRIO) == 1 then call('HDEL', PRIO, unpack(ids)) end
  if call('EXISTS', TRIES) == 1 then call('HDEL', TRIES, unpack(ids)) end
  if call('EXISTS', CANCELLED) == 1 then call('SREM', CANCELLED, unpack(ids)) end
  call('HDEL', JOBS, unpack(ids))
end

-- Note that the queue is alive. After a gap (server stopped, restarted, clock moved) nobody reclaims for as long again.
local function pulse(gap)
  local last = tonumber(call('HGET', META, 'pulse') or 0)
  if math.abs(NOW - last) > gap then call('HSET', META, 'hold', NOW + gap) end
  if NOW ~= last then call('HSET', META, 'pulse', NOW) end
end

-- The reply to a resent batch, or nil when the batch is new; an error when a later batch was seen.
local function remembered(key, number)
  local last, reply = string.match(call('GET', key) or '-1:', '^(%-?%d+):(.*)$')
  if tonumber(last) == number then return reply end
  if tonumber(last) > number then return redis.error_reply('STALE batch ' .. number .. ' is behind ' .. last) end
end

local function remember(key, number, reply)
  call('SET', key, number .. ':' .. reply, 'PX', 3600000)
  return reply
end

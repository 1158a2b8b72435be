"""Rewards per token, and generalized advantage estimation that steps over the tools' tokens.

Shapes: B episodes, T columns, one token each; `mask` (B, T) is true on the model's tokens. Numbers in
other columns never matter: they are left out by selection, since a product with 0 would keep a NaN.
"""

import torch


def token_rewards(
    scores: torch.Tensor, kl: torch.Tensor, mask: torch.Tensor, kl_coef: float
) -> torch.Tensor:
    """-kl_coef * KL on each model token, and the episode's score on its last one (Ziegler et al. 2019).

    Args:
        scores: (B,), the task's reward for each episode.
        kl: (B, T), policy minus reference log-probability, in nats.
        mask: (B, T).

    Returns:
        (B, T), zero outside the mask. An episode without model tokens gets no reward.
    """
    rewards = torch.where(mask, -kl_coef * kl, 0.0)
    tokens_from_here_on = mask.int().flip(1).cumsum(1).flip(1)
    last = mask & (tokens_from_here_on == 1)
    return torch.where(last, rewards + scores[:, None], rewards)


def gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    gamma: float,
    lam: float,
    bootstrap: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalized advantage estimation (Schulman et al. 2016, eq. 16) over the model's tokens only.

    With t_1 < ... < t_n the columns of an episode's model tokens, and index i, not t, for time:

        delta_i  = R_i + gamma * V_{i+1} - V_i        (V_{n+1}: the bootstrap value)
        A_i      = delta_i + gamma * lam * A_{i+1}
        return_i = A_i + V_i

    The token after a tool's answer is thus the successor of the token that ended the call, and how
    long the answer is makes no difference.

    Args:
        rewards: (B, T).
        values: (B, T), the value of the state before each token.
        mask: (B, T).
        bootstrap: (B,), the value of the state after the last token; None for 0, an episode's end.

    Returns:
        Advantages and returns, (B, T) each, zero outside the mask.
    """
    # Move the model's tokens to the left, in order, walk back over them, and put the results back.
    order = torch.argsort((~mask).int(), dim=1, stable=True)
    packed_mask, packed_rewards, packed_values = (
        x.gather(1, order) for x in (mask, rewards, values)
    )
    advantages = torch.zeros_like(packed_rewards)
    next_value = rewards.new_zeros(len(rewards)) if bootstrap is None else bootstrap
    next_advantage = torch.zeros_like(next_value)
    for i in reversed(range(int(mask.sum(dim=1).max()))):
        here = packed_mask[:, i]
        delta = packed_rewards[:, i] + gamma * next_value - packed_values[:, i]
        next_advantage = torch.where(here, delta + gamma * lam * next_advantage, next_advantage)
        next_value = torch.where(here, packed_values[:, i], next_value)
        advantages[:, i] = torch.where(here, next_advantage, 0.0)
    unpacked = torch.zeros_like(advantages).scatter(1, order, advantages)
    return unpacked, torch.where(mask, unpacked + values, 0.0)


def gae_walk(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """TRL 0.11.4's estimator, for comparison: walks over every column, the tools' values set to 0.

    Each tool token discounts what lies beyond it by lam, and the call's last token is charged for a
    "fall" in value from V to 0: a call that wins is punished the more, the longer the answer.
    Takes and returns what `gae` does.
    """
    rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(rewards)
    next_value = rewards.new_zeros(len(rewards))
    next_advantage = torch.zeros_like(next_value)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = delta + gamma * lam * next_advantage
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return torch.where(mask, advantages, 0.0), torch.where(mask, advantages + values, 0.0)

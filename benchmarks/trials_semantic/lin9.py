from lin7 import *
import json
P,D,S=load('f'); WF=np.load('web_f.npy'); ll=np.load('web_ll.npy'); WF=WF[:len(ll)]
LLD=np.load('ev_ll.npy') if False else None
clean=(META.clean==1).to_numpy()
mu=P[tr].mean(0); sd=P[tr].std(0)+1e-6
def sym(X,t,groups):
    Z=(X.astype(np.float64)-mu)/sd; t=t.astype(float).copy()
    for k in np.unique(groups): q=groups==k; Z[q]-=Z[q].mean(0); t[q]-=t[q].mean()
    return Z.T@Z,Z.T@t,len(t)
base=sym(P[tr],T[tr],web[tr]); n=base[2]
f0=np.linalg.solve(base[0]+3e4*np.eye(1120),base[1]); sc=((P[tr]-mu)/sd@f0)
rn=lambda v: __import__('scipy').stats.norm.ppf(rankdata(v)/(len(v)+1))
s0=(WF-mu)/sd@f0; print('sem vs ll on web',sr(s0,ll),len(ll), 'std web scores',s0.std(),'within',sc.std())
teach={'ll':z(ll),'sum':z(z(ll)+z(s0)),'sem':z(s0)}
for nm,t in teach.items():
  for lam in (.5,2,8):
    w=sym(WF,t*s0.std(),np.zeros(len(t))); k=lam*n/w[2]
    for pen in (3e4,):
        c=np.linalg.solve(base[0]+k*w[0]+pen*(1+lam)*np.eye(1120),base[1]+k*w[1]); g=lambda X:(X-mu)/sd@c
        report(f'{nm} lam{lam} {pen:g} web {sr(g(WF),t):.3f}',g(D),g(S),g(P[HELD]),HT,worst=2)
